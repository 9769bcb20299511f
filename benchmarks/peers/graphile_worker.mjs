/* graphile-worker: `node graphile_worker.mjs ROW JOBS URL`.
 *
 * As its page on performance sets it up: 24 concurrent jobs, a pool of 25 connections, a local queue of 500, and
 * completions in batches without a delay; no line of log for each job. One process: it has no pool of processes, and a second one made it
 * slower on two cores. Results are not kept, for it has none; finished rows are deleted.
 */

process.env.NO_LOG_SUCCESS = "1"; // read when it is imported
const { makeWorkerUtils, run, runMigrations } = await import("graphile-worker");
const { default: pg } = await import("pg");

const [row, count, url] = process.argv.slice(2);
const jobs = Number(count);
const POLL_MS = 20;
const POLL_SHARE = 0.02; // as in measuring.py
const preset = {
  worker: {
    connectionString: url,
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function asked(client, query) {
  return Object.values((await client.query(query)).rows[0])[0];
}

async function clean(client) {
  await client.query("DROP SCHEMA IF EXISTS graphile_worker CASCADE");
  await runMigrations({ connectionString: url });
}

async function fill(client, total) {
  // One statement of its own function, which its documentation gives for bulk; the array is made by the caller.
  const utils = await makeWorkerUtils({ preset });
  const specs = Array.from({ length: total }, () => ({ identifier: "add", payload: { x: 1, y: 1 } }));
  const began = performance.now();
  await utils.addJobs(specs);
  const rate = total / ((performance.now() - began) / 1000);
  await utils.release();
  await client.query("VACUUM ANALYZE graphile_worker._private_jobs");
  await client.query("CHECKPOINT");
  return rate;
}

const rows = {
  async drain(client) {
    await fill(client, jobs);
    const count = "SELECT count(*)::int FROM graphile_worker._private_jobs";
    const any = "SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)";
    const add = async ({ x, y }) => { x + y; };
    const runner = await run({ preset, taskList: { add }, noHandleSignals: true });
    let first = 0;
    while ((first = jobs - (await asked(client, count))) === 0) await sleep(POLL_MS);
    const began = performance.now();
    while (await asked(client, any)) await sleep(Math.max(POLL_MS, POLL_SHARE * (performance.now() - began)));
    const rate = (jobs - first) / ((performance.now() - began) / 1000);
    await runner.stop();
    return { rate };
  },
  async bulk(client) {
    return { rate: await fill(client, jobs) };
  },
  async single() {
    const utils = await makeWorkerUtils({ preset });
    await utils.addJob("add", { x: 1, y: 1 });
    const began = performance.now();
    for (let i = 0; i < jobs; i++) await utils.addJob("add", { x: 1, y: 1 });
    const rate = jobs / ((performance.now() - began) / 1000);
    await utils.release();
    return { rate };
  },
};

const client = new pg.Client({ connectionString: url });
await client.connect();
await clean(client);
const figures = await rows[row](client);
await client.end();
console.log(JSON.stringify(figures));
process.exit(0);

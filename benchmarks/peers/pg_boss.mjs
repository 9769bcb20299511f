/* pg-boss: `node pg_boss.mjs ROW JOBS URL`.
 *
 * Batches of 1,000 and 20 workers in one process, which its documentation gives as the ways to more throughput. It
 * polls, at most every half second, but for a worker whose batch was full: that one fetches the next at once
 * (`burstWhenBatchFull`). A batch is completed in one statement. Finished jobs stay in its table; results are not kept
 * for jobs of a batch. Many jobs are enqueued with `insert`.
 */

const { PgBoss } = await import("pg-boss");
const { default: pg } = await import("pg");

const [row, count, url] = process.argv.slice(2);
const jobs = Number(count);
const POLL_MS = 20;
const POLL_SHARE = 0.02; // as in measuring.py
const WORKERS = 20;
const QUEUE = "add";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const asked = async (client, query) => Object.values((await client.query(query)).rows[0])[0];
const perSecond = (began) => jobs / ((performance.now() - began) / 1000);

const rows = {
  async bulk(boss) {
    const many = Array.from({ length: jobs }, () => ({ data: { x: 1, y: 1 } }));
    const began = performance.now();
    await boss.insert(QUEUE, many);
    return { rate: perSecond(began) };
  },
  async single(boss) {
    await boss.send(QUEUE, { x: 1, y: 1 });
    const began = performance.now();
    for (let i = 0; i < jobs; i++) await boss.send(QUEUE, { x: 1, y: 1 });
    return { rate: perSecond(began) };
  },
  async drain(boss, client) {
    await rows.bulk(boss);
    await client.query("VACUUM ANALYZE");
    await client.query("CHECKPOINT");
    const add = async (batch) => { for (const { data } of batch) data.x + data.y; };
    const often = { pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
    await boss.work(QUEUE, { batchSize: 1000, localConcurrency: WORKERS, ...often }, add);
    const finished = "SELECT count(*)::int FROM pgboss.job WHERE state = 'completed'";
    const began = performance.now();
    const pause = () => Math.max(POLL_MS, POLL_SHARE * (performance.now() - began));
    while ((await asked(client, finished)) < jobs) await sleep(pause());
    return { rate: perSecond(began) };
  },
};

const client = new pg.Client({ connectionString: url });
await client.connect();
await client.query("DROP SCHEMA IF EXISTS pgboss CASCADE");
const boss = new PgBoss({ connectionString: url, max: WORKERS, schedule: false });
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue(QUEUE);
console.log(JSON.stringify(await rows[row](boss, client)));
process.exit(0);

"""Celery's settings as names: those without meaning here and why, and the spellings of Celery 3.

A ported application keeps its configuration file: each name in it is understood, taken with a warning that says why
it does nothing, or unknown. The names are those of Celery 5.6 ("Configuration and defaults" in its documentation).
"""

from __future__ import annotations

from typing import Final

_BROKER: Final = (
    "the database is the broker, and its connection is set by broker_url, database_pool_size and "
    "database_connect_timeout"
)
_MESSAGING: Final = "jobs are rows of one table: there are no exchanges, routing keys or messages"
_BACKEND: Final = "results lie in the jobs table of the application's database, and nowhere else"
_DATABASE: Final = "the jobs table is made by dbqueue's migrations, and its connections are set by database_pool_size"
_EVENTS: Final = "what happens to a job is on its row: there are no event queues"
_CONTROL: Final = "commands to workers go through the database and need no queue of their own"
_PREFETCH: Final = "a worker claims jobs only when it has room to run them: nothing is prefetched or held back"
_CHORD: Final = "a chord's body is released by the transaction that completes its last header job"
_SECURITY: Final = (
    "jobs are signed with the secrets of task_signing_keys, and who may write to the table is decided by the database"
)
_PARTS: Final = "the parts of the worker cannot be exchanged"
_FAILURE: Final = "a failed job is over unless its task retries it"
_PUBLISH: Final = "an enqueue is a statement of the caller's transaction and fails at once where the database is away"
_DAEMON: Final = "a process of the background is told by the options of its command, such as --pidfile and --uid"
_LOST: Final = "a lost run is run again at most task_max_losses times"

_REASONS: Final[dict[str, str]] = {
    _BROKER: """
        broker_read_url broker_write_url broker_transport broker_transport_options broker_connection_timeout
        broker_connection_retry broker_connection_retry_on_startup broker_connection_max_retries
        broker_channel_error_retry broker_failover_strategy broker_heartbeat broker_heartbeat_checkrate
        broker_login_method broker_native_delayed_delivery_queue_type broker_pool_limit broker_pool_acquire_timeout
        broker_use_ssl broker_host broker_port broker_user broker_password broker_vhost
        worker_cancel_long_running_tasks_on_connection_loss worker_detect_quorum_queues
        """,
    _MESSAGING: """
        task_default_delivery_mode task_default_queue_type task_default_exchange task_default_exchange_type
        task_default_routing_key task_protocol task_queue_max_priority
        task_create_missing_queue_type task_create_missing_queue_exchange_type worker_direct
        """,
    _BACKEND: """
        result_backend_transport_options result_backend_max_sleep_between_retries_ms result_backend_max_retries
        result_backend_base_sleep_between_retries_ms result_backend_always_retry result_cache_max
        result_exchange result_exchange_type result_persistent result_chord_expires
        result_failure_expires override_backends result_backend_thread_safe
        cache_backend cache_backend_options
        redis_backend_use_ssl redis_db redis_host redis_port redis_username redis_password redis_max_connections
        redis_socket_timeout redis_socket_connect_timeout redis_retry_on_timeout redis_socket_keepalive
        redis_backend_health_check_interval redis_client_name redis_backend_credential_provider
        cassandra_entry_ttl cassandra_keyspace cassandra_port cassandra_read_consistency cassandra_servers
        cassandra_bundle_path cassandra_secure_bundle_path cassandra_table cassandra_write_consistency
        cassandra_auth_provider cassandra_auth_kwargs cassandra_options
        s3_access_key_id s3_secret_access_key s3_bucket s3_base_path s3_endpoint_url s3_region
        azureblockblob_container_name azureblockblob_retry_initial_backoff_sec azureblockblob_retry_increment_base
        azureblockblob_retry_max_attempts azureblockblob_base_path azureblockblob_connection_timeout
        azureblockblob_read_timeout
        gcs_bucket gcs_project gcs_base_path gcs_ttl firestore_project
        couchbase_backend_settings couchdb_backend_settings arangodb_backend_settings mongodb_backend_settings
        cosmosdbsql_database_name cosmosdbsql_collection_name cosmosdbsql_consistency_level
        cosmosdbsql_max_retry_attempts cosmosdbsql_max_retry_wait_time dynamodb_endpoint_url
        elasticsearch_retry_on_timeout elasticsearch_max_retries elasticsearch_timeout elasticsearch_save_meta_as_text
        """,
    _DATABASE: """
        database_engine_options database_engine_callback database_short_lived_sessions database_table_schemas
        database_table_names database_create_tables_at_setup
        """,
    _EVENTS: """
        event_queue_expires event_queue_ttl event_queue_prefix event_queue_exclusive event_queue_durable
        event_serializer event_exchange
        """,
    _CONTROL: """
        control_queue_ttl control_queue_expires control_queue_exclusive control_queue_durable control_exchange
        beat_enable_remote_control beat_remote_control_max_tick_age
        """,
    _PREFETCH: """
        worker_prefetch_multiplier worker_enable_prefetch_count_reduction worker_disable_prefetch
        worker_eta_task_limit
        """,
    _CHORD: "result_chord_retry_interval result_chord_join_timeout",
    _SECURITY: """
        security_certificate security_cert_store security_key security_key_password security_digest
        """,
    _PARTS: """
        worker_agent worker_autoscaler worker_consumer worker_timer worker_timer_precision worker_pool_putlocks
        worker_pool_start_method worker_proc_alive_timeout worker_state_db worker_log_datefmt
        worker_task_log_datefmt beat_scheduler beat_schedule_filename beat_sync_every
        """,
    _DAEMON: """
        worker_executable worker_gid worker_logfile worker_pidfile worker_uid worker_umask
        beat_executable beat_gid beat_logfile beat_pidfile beat_uid beat_umask
        events_executable events_gid events_logfile events_pidfile events_uid events_umask
        """,
    _FAILURE: "task_acks_on_failure_or_timeout task_acks_on_failure task_acks_on_timeout",
    _PUBLISH: "task_publish_retry task_publish_retry_policy",
    _LOST: "worker_lost_wait task_retry_on_worker_lost worker_deduplicate_successful_tasks",
}

WITHOUT_MEANING: Final[dict[str, str]] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Names of Celery settings that do nothing here, each with the reason."""

# Where the old name is not made by `_OLD_PREFIXES`.
_OLD_EXCEPTIONS: Final[dict[str, str]] = {
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_ENABLE_REMOTE_CONTROL": "worker_enable_remote_control",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERY_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
    "CELERY_RESULT_DBURI": "database_url",
    "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS": "database_short_lived_sessions",
    "CELERY_RESULT_DB_TABLENAMES": "database_table_names",
    "CELERY_RESULT_ENGINE_OPTIONS": "database_engine_options",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_SEND_TASK_SENT_EVENT": "task_send_sent_event",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_WORKER_DIRECT": "worker_direct",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_WORKER_LOST_WAIT": "worker_lost_wait",
    "CELERYBEAT_MAX_LOOP_INTERVAL": "beat_max_loop_interval",
}

_OLD_PREFIXES: Final = (
    ("CELERYBEAT_", "beat_"),
    ("CELERYD_", "worker_"),
    ("CELERY_RESULT_", "result_"),
    ("CELERY_EVENT_", "event_"),
    ("CELERY_CACHE_", "cache_"),
    ("CELERY_REDIS_", "redis_"),
    ("CELERY_", ""),  # CELERY_TIMEZONE, CELERY_ACCEPT_CONTENT, and any new name with the prefix of a namespace
    ("CELERY_", "task_"),
    # No other name without Celery's prefix: TIMEZONE or DATABASE_URL in a module may be meant for something else.
    ("BROKER_", "broker_"),
)


def new_name(old: str, known: frozenset[str]) -> str | None:
    """The lower-case name of a setting in Celery 3's spelling (`CELERYD_CONCURRENCY`), if it is one of `known`."""
    if not old.isupper():
        return None
    if old in _OLD_EXCEPTIONS:
        return _OLD_EXCEPTIONS[old]
    for prefix, replacement in _OLD_PREFIXES:
        if old.startswith(prefix) and (name := replacement + old[len(prefix) :].lower()) in known:
            return name
    return None

"""Settings, under Celery's names: https://docs.celeryq.dev/en/stable/userguide/configuration.html"""

broker_url = "sqlite:///cele.sqlite3"

task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]

timezone = "Europe/Oslo"
enable_utc = True

task_default_queue = "oslo"

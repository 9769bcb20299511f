"""The same settings beside others, told apart by a prefix: a Django project's settings look like this."""

DEBUG = True
TIMEZONE = "America/Lima"  # the site's own, and none of the queue's business

CELE_BROKER_URL = "sqlite:///cele.sqlite3"
CELE_TASK_SERIALIZER = "json"
CELE_RESULT_SERIALIZER = "json"
CELE_ACCEPT_CONTENT = ["json"]
CELE_TIMEZONE = "Europe/Oslo"
CELE_ENABLE_UTC = True
CELE_TASK_DEFAULT_QUEUE = "oslo"

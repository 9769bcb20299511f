"""Worker and beat as classes, under the module name of `celery.apps`."""

"""A worker and an application for tests, under the module names that Celery has for them."""

"""For Django projects, under the module name of `celery.contrib.django`."""

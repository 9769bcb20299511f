"""The class of tasks in a Django project, under the module name of `celery.contrib.django.task`."""

from __future__ import annotations

from dbqueue.task.django_task import DjangoTask

__all__ = ["DjangoTask"]

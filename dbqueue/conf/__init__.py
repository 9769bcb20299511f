"""The configuration of an application, `app.conf`: a mapping whose keys are attributes too.

Which value counts, strongest first: the command line's flag (`override`), the environment's DBQUEUE_<SETTING>, what
code sets (assignments, `update`, `config_from_object`, the last one), the default.

The effective values lie in the instance's own `__dict__`, so that `conf.task_serializer`, which every `delay()` reads,
is a plain attribute (40 ns, against 1 µs for a chain of four dicts) and a change is seen at the next read.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from dbqueue import settings
from dbqueue.conf.source import read_source
from dbqueue.errors import ImproperlyConfigured
from dbqueue.urls import MASK, mask_url

_LAYERS: Final = ("flag", "environment", "code")
_SECRET: Final = re.compile(
    r"passw|passphrase|(?:^|_)pass$|pwd|secret|token|api_?key|(?:signing|private|access|encryption)_?key|credential"
    "|security_key",
    re.IGNORECASE,
)
"""Names of settings, and of keys in them, whose values are never shown."""
_FOREIGN_SECRET: Final = re.compile(f"{_SECRET.pattern}|api|key|pass|signature", re.IGNORECASE)
"""The same of settings that are none of dbqueue's, where a key is no routing key: Celery masks as many."""


class Settings(MutableMapping[str, Any]):
    """All settings of one application; each write is checked at once and raises ImproperlyConfigured.

    `environ` is where DBQUEUE_* variables are looked up, once, now; by default `os.environ`. Names are Celery's in
    lower case; those of Celery 3 (`CELERY_TASK_SERIALIZER`) are understood wherever a name is given. An unknown name
    is kept, with a warning. Deleting a setting returns it to its default.
    """

    def __init__(self, initial: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._loading = False
        self._pending: list[Callable[[], None]] = []
        """Steps not taken yet: an unread source, and each change to be made on top of it, in their order."""
        self._layers: dict[str, dict[str, Any]] = {layer: {} for layer in _LAYERS}
        self._layers["environment"] = settings.from_environment(os.environ if environ is None else environ)
        self._fill()
        if initial:
            self.update(initial)

    def config_from_object(
        self, source: Any, silent: bool = False, force: bool = False, *, namespace: str | None = None
    ) -> None:
        """Take the settings of `source`: a module, class, instance or dict, or the name of one as `module:attribute`.

        What is named by text is imported at the first read of a setting, as in Celery, so that a settings module may
        import the application; `force` imports it now. `silent` passes over a module that does not exist. With
        `namespace`, such as 'CELERY', only names that begin with it and an underscore count, in either case:
        `CELERY_TASK_SERIALIZER` is `task_serializer`. Without one, lower-case names that are known and Celery 3's
        upper-case names do; other names of a module are its own business, unless one looks misspelt.

        Raises ImproperlyConfigured for a module that is not found (at the first read) or a value that cannot work.
        """

        def load() -> None:
            for name, value in read_source(source, namespace=namespace, silent=silent):
                self._store("code", name, value)

        with self._lock:
            if isinstance(source, str) and not force:
                self._empty()
                self._pending.append(load)
            else:
                self._load()
                load()

    def config_from_envvar(self, variable: str, silent: bool = False, force: bool = False) -> None:
        """As `config_from_object`, with the module that the environment variable `variable` names.

        Raises ImproperlyConfigured if it is not set or empty, unless `silent`.
        """
        module = os.environ.get(variable)
        if module:
            self.config_from_object(module, silent=silent, force=force)
        elif not silent:
            raise ImproperlyConfigured(
                f"the environment variable {variable} is not set: it should name the module that holds the settings"
            )

    def override(self, values: Mapping[str, Any]) -> None:
        """Set values that no later assignment changes: those of command line flags."""
        for name, value in values.items():
            self._set("flag", name, value)

    def origin(self, name: str) -> str:
        """Where the value of `name` comes from: 'flag', 'environment', 'code' or 'default'."""
        self._load()
        name = settings.known_name(name) or name
        return next((layer for layer in _LAYERS if name in self._layers[layer]), "default")

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that are set somewhere, or whose default was changed in place, with their values."""
        self._load()
        return {
            name: value
            for name, value in self.items()
            if name not in settings.SETTINGS
            or self.origin(name) != "default"
            or value != settings.SETTINGS[name].default
        }

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """The settings as a dict; with `censored` passwords are masked in it."""
        shown = dict(self) if with_defaults else self.changes
        return {name: _display(name, value, _secrets_of(name)) for name, value in shown.items()} if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """A line `name: value` for each setting that is set, or for all of them; passwords are masked."""
        return "\n".join(f"{name}: {value!r}" for name, value in self.table(with_defaults, censored).items())

    # -- the mapping

    def __getitem__(self, name: str) -> Any:
        self._load()
        known = settings.known_name(name) or name
        if not known.startswith("_"):
            return self.__dict__[known] if known in self.__dict__ else self._lookup(known)
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._set("code", name, value)

    def __delitem__(self, name: str) -> None:
        self._load()
        name = settings.known_name(name) or name
        with self._lock:
            del self._layers["code"][name]
            self._refresh(name)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._names())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Forget all that code has set."""
        with self._lock:
            self._pending.clear()
            self._empty()
            self._layers["code"].clear()
            self._fill()

    # -- the attributes

    def __getattr__(self, name: str) -> Any:
        # Reached only for names that are not in __dict__: another spelling, a source not read yet, or a mistake.
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                if settings.known_name(name) is not None:
                    return None  # one without meaning here, that nobody set: programs look at it all the same
        close = None if name.startswith("_") else settings.nearest(name)
        raise AttributeError(f"there is no setting {name!r}" + (f": did you mean {close!r}?" if close else ""))

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._set("code", name, value)

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the setting {name!r} is not set by code") from None

    def __repr__(self) -> str:
        # Not the values: a repr ends up in logs and tracebacks.
        return f"<{type(self).__name__}: {sum(map(len, self._layers.values()))} set>"

    # -- layers and effective values

    def _set(self, layer: str, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise ImproperlyConfigured(f"no setting can be named {name!r}: a leading underscore is reserved")
        name = settings.known_name(name) or name
        value = settings.check(name, value)
        with self._lock:
            if self._pending:
                self._pending.append(lambda: self._store(layer, name, value))
            else:
                self._store(layer, name, value)

    def _store(self, layer: str, name: str, value: Any) -> None:
        value = settings.check(name, value)
        self._layers[layer][name] = value
        self._refresh(name)
        warning = settings.warning_for(name, value)
        if warning is not None and name not in self._warned:
            self._warned.add(name)
            warnings.warn(warning, UserWarning, stacklevel=4)

    def _lookup(self, name: str) -> Any:
        """The value that counts, out of the layers. Raises KeyError for a name that is in none and has no default."""
        for layer in _LAYERS:
            if name in self._layers[layer]:
                return self._layers[layer][name]
        return settings.SETTINGS[name].fresh_default()

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*settings.SETTINGS, *(name for layer in _LAYERS for name in self._layers[layer])]))

    def _refresh(self, name: str) -> None:
        if self._pending:
            return
        try:
            self.__dict__[name] = self._lookup(name)
        except KeyError:
            self.__dict__.pop(name, None)

    def _fill(self) -> None:
        self.__dict__.update({name: self._lookup(name) for name in self._names()})

    def _empty(self) -> None:
        """Take the effective values away, so that the next read comes to `__getattr__` and loads what is pending."""
        for name in self._names():
            self.__dict__.pop(name, None)

    def _load(self) -> None:
        """Take the steps that are pending; other threads wait, and no value is seen half way.

        A settings module that reads this configuration while it is imported sees what was set before. After a
        failure the steps stay, so that the next read fails in the same way instead of going on with defaults.
        """
        if not self._pending:
            return
        with self._lock:
            if self._loading:
                return
            self._loading = True
            try:
                while self._pending:
                    self._pending[0]()
                    if len(self._pending) == 1:
                        self._fill()
                    del self._pending[0]
            finally:
                self._loading = False


def _secrets_of(name: str) -> re.Pattern[str]:
    return _SECRET if name in settings.SETTINGS else _FOREIGN_SECRET


def _display(name: str, value: Any, secret: re.Pattern[str]) -> Any:
    """`value` as it may be shown: passwords in URLs are masked, and whatever has a secret's name is so as a whole."""
    if value is not None and not isinstance(value, bool) and secret.search(name):
        return MASK
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {key: _display(str(key), item, secret) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_display(name, item, secret) for item in value]
    return value

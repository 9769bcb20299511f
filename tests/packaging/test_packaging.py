"""The distributions: each is built, installed into a virtual environment of its own, and used.

Not in the default run: it builds and downloads. `make packaging` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

CHECKOUT = Path(__file__).resolve().parents[2]

USE = """
import sys
import sqlalchemy as sa
import dbqueue
from dbqueue.store import migrate

engine = sa.create_engine(sys.argv[1])
migrate.upgrade(engine)
assert migrate.check(engine).is_current
print(dbqueue.__file__)
print(migrate.folder())
"""


def run(*command: str | Path, cwd: Path) -> str:
    # Nothing of the environment that runs the tests may leak into the one that is tried.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(target: Path, *options: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, *options, CHECKOUT, cwd=target)
    return target


@pytest.fixture(scope="session")
def sdist_and_its_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both; without options, `build` makes the wheel from the source distribution."""
    return build(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def sdist(sdist_and_its_wheel: Path) -> Path:
    (built,) = sdist_and_its_wheel.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel_of_sdist(sdist_and_its_wheel: Path) -> Path:
    (built,) = sdist_and_its_wheel.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (built,) = build(tmp_path_factory.mktemp("wheel"), "--wheel").glob("*.whl")
    return built


def install(folder: Path, *what: str | Path) -> Path:
    """A new virtual environment with `what` in it, dependencies and all; returns its programs' folder."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what, cwd=folder)
    return programs


def use(programs: Path, folder: Path) -> tuple[Path, Path]:
    """Migrate a new database there; returns where the package and its migrations came from."""
    output = run(programs / "python", "-c", USE, f"sqlite:///{folder / 'jobs.db'}", cwd=folder)
    package, migrations = output.splitlines()
    return Path(package).parent, Path(migrations)


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist"])
def test_installed_wheel_migrates(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    programs = install(tmp_path, request.getfixturevalue(kind))
    package, migrations = use(programs, tmp_path)
    assert package.is_relative_to(tmp_path)
    assert migrations == package / "migrations"
    assert (programs / ("dbqueue.exe" if os.name == "nt" else "dbqueue")).exists()


def test_editable_installation_migrates_from_the_checkout(tmp_path: Path) -> None:
    programs = install(tmp_path, "--editable", CHECKOUT)
    package, migrations = use(programs, tmp_path)
    assert package == CHECKOUT / "dbqueue"
    assert migrations == CHECKOUT / "migrations"


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist"])
def test_wheel_holds_what_it_must_and_no_more(kind: str, request: pytest.FixtureRequest) -> None:
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        names = set(archive.namelist())
    modules = (CHECKOUT / "dbqueue").rglob("*.py")
    expected = {path.relative_to(CHECKOUT).as_posix() for path in modules}
    expected |= {f"dbqueue/migrations/versions/{path.name}" for path in (CHECKOUT / "migrations/versions").glob("*.py")}
    assert expected | {"dbqueue/py.typed", "dbqueue/migrations/script.py.mako"} <= names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".ini"))]
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"dbqueue", "dbqueue_sql"}


def test_sdist_can_be_built_and_tested(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "Makefile"} <= names
    assert {"migrations/versions/0001_jobs_and_workers.py", "tests/conftest.py", "dbqueue/py.typed"} <= names

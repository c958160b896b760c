"""A project's folder of its own, laid out from the installed package."""

import io
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

from ruamel.yaml import YAML

from whisper_router import git
from whisper_router.errors import UserError
from whisper_router.files import write_text
from whisper_router.installed import NAME, VERSION, write_installed
from whisper_router.retrain_options import RetrainOptions
from whisper_router.run import dvc_call

# The same list as [tool.setuptools.data-files] in pyproject.toml: a wheel brings these files from the
# repository into share/whisper-router, so that there is no second copy to keep.
TEMPLATE = (
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "costs/README.md",
    "data/.gitignore",
    "data/README.md",
    "data/corpora/demo/sentences.txt",
    "dvc.yaml",
    "flows/*.py",
    "mlruns/.gitignore",
    "mlruns/README.md",
    "params.yaml",
    "prefect.yaml",
)
HEADER = f"""\
# The only description of the DAG. Each stage runs one Prefect flow of flows/. {VERSION} stands
# for the code of the installed package; `whisper-router run` writes it anew when another is installed.
"""
SHARE = f"share/{NAME}/"


def template() -> dict[str, Path]:
    """The files of a new project, by their path in it: of the repository in a clone, else of the wheel."""
    root = Path(__file__).parents[2]
    if (root / "dvc.yaml").is_file() and (root / "flows").is_dir():
        found = [path for pattern in TEMPLATE for path in sorted(root.glob(pattern))]
        return {path.relative_to(root).as_posix(): path for path in found}
    files = distribution(NAME).files or []
    shared = [file for file in files if SHARE in file.as_posix() and file.suffix != ".pyc"]
    if not shared:
        raise UserError(f"{NAME} was installed without {SHARE}; install it again from its wheel")
    return {file.as_posix().split(SHARE, 1)[1]: Path(str(file.locate())) for file in shared}


def project_dag(text: str) -> str:
    """The repository's dvc.yaml for a project that does not hold the package's source."""
    yaml = YAML()
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    for stage in document["stages"].values():
        kept = [path for path in stage["deps"] if not path.startswith("src/")]
        stage["deps"][:] = [*kept, str(VERSION)]
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return HEADER + "\n".join(lines[start:]) + "\n"


def init(folder: Path) -> bool:
    """Lay out a project: params.yaml, the DAG, flows, git and DVC initialised.

    Returns
    -------
    bool
        Whether there is a first commit; without an identity git cannot make one.

    Raises
    ------
    UserError
        The folder is not empty, or git or DVC fails; what was written is removed again.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name one that is empty or does not exist yet")
    files = template()
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _lay_out(folder, files)
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed and folder.is_dir():
            folder.rmdir()
        raise


def _lay_out(folder: Path, files: dict[str, Path]) -> bool:
    def in_folder(*arguments: str) -> str:
        return git.do("-C", str(folder), *arguments)

    in_folder("init", "--quiet", f"--initial-branch={RetrainOptions().branch}")
    command, variables = dvc_call("init", "--quiet")
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc init in {folder}: {done.stderr.strip() or done.stdout.strip()}")
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    write_text(folder / "dvc.yaml", project_dag((folder / "dvc.yaml").read_text()))
    write_installed(folder)
    identified = git.ask("-C", str(folder), "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    if identified is None:
        return False
    in_folder("add", "--all")
    in_folder("commit", "--quiet", "-m", f"{NAME} init")
    return True

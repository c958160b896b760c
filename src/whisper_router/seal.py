"""Hashes over all that a version is, and a signature over them by a key that the registry does not hold."""

import subprocess
import tempfile
from pathlib import Path

from whisper_router import git
from whisper_router.errors import UserError
from whisper_router.hashing import canonical_json, digest, file_sha256

META = "registered_model_meta"  # MLflow writes it into the model's folder whenever somebody loads it
GATE = "gate"  # folder of a run's artifacts: what the gate judged by, sealed by itself
RECORDED = "recorded.json"  # artifact of a run: files of the model, params and metrics as they were recorded
MODEL_TAG, ARTIFACTS_TAG, GATE_TAG = "model_sha256", "artifacts_sha256", "gate_sha256"  # of a version
SIGNATURE = "signature"  # tag of a version
NAMESPACE = "whisper-router"
MISSING = "ssh-keygen is not installed (OpenSSH 8.2 or newer has it)"


class SignatureError(UserError):
    """A version cannot be signed."""


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path; MLflow's own note in its root is left out."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_sha256(names[name]) for name in sorted(names) if name != META}


def model_seal(model: Path) -> str:
    """One hash over the names and contents of a whole model folder."""
    return digest(file_hashes(model))


def artifacts_seal(artifacts: Path) -> str:
    """One hash over a run's artifacts, but for what the gate adds after the registration."""
    files = file_hashes(artifacts)
    return digest({name: sha for name, sha in files.items() if not name.startswith(f"{GATE}/")})


def gate_seal(artifacts: Path) -> str | None:
    """One hash over what the gate judged by; None where it did not judge."""
    return digest(file_hashes(artifacts / GATE)) if (artifacts / GATE).is_dir() else None


def statement(
    model: str, version: str, commit: str, lock: str, model_sha256: str, artifacts: str, gate: str | None
) -> bytes:
    """What is signed: canonical JSON, a line."""
    said = {
        "artifacts_sha256": artifacts,
        "dvc_lock_sha256": lock,
        "gate_sha256": gate,
        "git_commit": commit,
        "model": model,
        "model_sha256": model_sha256,
        "version": version,
    }
    return f"{canonical_json(said)}\n".encode()


def _keygen(*arguments: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Run ssh-keygen; a passphrase is asked for on the terminal.

    Raises
    ------
    FileNotFoundError
        It is not installed.
    """
    return subprocess.run(
        ["ssh-keygen", "-Y", *arguments], input=stdin, capture_output=True, timeout=120, check=False
    )


def sign(said: bytes, key: Path) -> str:
    """An SSH signature over a statement.

    Parameters
    ----------
    key : Path
        A private key, or a public one whose private key is with ssh-agent.

    Raises
    ------
    SignatureError
        No such key, or ssh-keygen is not installed or refuses.
    """
    if not key.is_file():
        raise SignatureError(f"--key {key}: no such file; `ssh-keygen -t ed25519 -f {key}` makes a key")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "statement"
        file.write_bytes(said)
        try:
            done = _keygen("sign", "-q", "-f", str(key), "-n", NAMESPACE, str(file))
        except FileNotFoundError as error:
            raise SignatureError(MISSING) from error
        if done.returncode:
            raise SignatureError(f"ssh-keygen does not sign with {key}: {done.stderr.decode().strip()}")
        return file.with_name("statement.sig").read_text()


def allowed_signers(given: Path | None) -> Path | None:
    """The file of keys that are trusted: as given, else git's ``gpg.ssh.allowedSignersFile``."""
    if given is not None:
        if not given.is_file():
            raise SignatureError(f"--allowed-signers {given}: no such file")
        return given
    configured = git.text("config", "--type=path", "gpg.ssh.allowedSignersFile")
    return Path(configured) if configured else None


def verify(said: bytes, signature: str, allowed: Path) -> tuple[bool | None, str]:
    """Whether a trusted key has signed a statement, and who or why not; None: it cannot be told here."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "signature"
        file.write_text(signature)
        try:
            who = _keygen("find-principals", "-s", str(file), "-f", str(allowed))
            if who.returncode:
                return False, f"signed by a key that {allowed} does not name"
            principal = who.stdout.decode().splitlines()[0]
            wanted = ("-f", str(allowed), "-I", principal, "-n", NAMESPACE, "-s", str(file))
            done = _keygen("verify", *wanted, stdin=said)
        except FileNotFoundError:
            return None, MISSING
    if done.returncode:
        return False, f"{principal} has signed something else than what is found here"
    return True, f"signed by {principal}"

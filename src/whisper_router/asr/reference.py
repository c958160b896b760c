"""An arm by the name, hash and size of its checkpoint: the weights themselves lie elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from whisper_router.asr.arm import Arm, arm_spec
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import Checkpoint, find_checkpoint
from whisper_router.errors import UserError


class ArmReference(BaseModel):
    """What a stage or a router needs to know to load an arm again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    sha256: str
    size: int
    decode: DecodeOptions

    @classmethod
    def of(cls, model: str, checkpoint: Checkpoint, decode: DecodeOptions) -> "ArmReference":
        """The reference of a checkpoint that was found under a name or path."""
        return cls(model=model, sha256=checkpoint.sha256, size=checkpoint.size, decode=decode)

    def spec(self) -> dict[str, object]:
        """What a policy is bound to."""
        return arm_spec(self.sha256, self.decode)

    def checkpoint(self, embedded: Path | None = None) -> Checkpoint:
        """Find the arm's checkpoint; a file beside the router goes first.

        Raises
        ------
        UserError
            No checkpoint, or the one that this machine has under the name holds other weights.
        """
        found = find_checkpoint(str(embedded) if embedded and embedded.exists() else self.model)
        if found.sha256 != self.sha256:
            raise UserError(
                f"{found.path}: holds weights {found.sha256[:12]}, not the {self.sha256[:12]} that were "
                f"asked for; put the right {self.model} there"
            )
        return found

    def load(self) -> Arm:
        """Load the arm."""
        return load_arm(self.checkpoint(), self.decode)


def arm_references(arms: Mapping[str, Mapping[str, object]]) -> dict[str, ArmReference]:
    """The arms of data/arms.json, without the sizes that only costs read."""
    return {
        name: ArmReference.model_validate({key: arm[key] for key in ArmReference.model_fields})
        for name, arm in arms.items()
    }

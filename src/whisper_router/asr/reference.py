"""An arm by the name, hash and size of its checkpoint: the weights themselves lie elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from whisper_router.asr.arm import Arm, arm_spec
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.errors import UserError


class ArmReference(BaseModel):
    """What a stage or a router needs to know to load an arm again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    sha256: str
    size: int
    decode: DecodeOptions

    def spec(self) -> dict[str, object]:
        """What a policy is bound to."""
        return arm_spec(self.sha256, self.decode)

    def load(self, embedded: Path | None = None) -> Arm:
        """Load the arm, from a file beside the router where there is one.

        Raises
        ------
        UserError
            The checkpoint that this machine has under the name holds other weights.
        """
        checkpoint = find_checkpoint(str(embedded) if embedded and embedded.is_file() else self.model)
        if checkpoint.sha256 != self.sha256:
            raise UserError(
                f"{checkpoint.path}: holds weights {checkpoint.sha256[:12]}, not the {self.sha256[:12]} that "
                f"were asked for; put the right {self.model} there"
            )
        return load_arm(checkpoint, self.decode)


def arm_references(arms: Mapping[str, Mapping[str, object]]) -> dict[str, ArmReference]:
    """The arms of data/arms.json, without the sizes that only costs read."""
    return {
        name: ArmReference.model_validate({key: arm[key] for key in ArmReference.model_fields})
        for name, arm in arms.items()
    }

"""The reader of an extractor in params.yaml: stored features, or features encoded when they are read."""

from whisper_router.asr.reference import arm_references
from whisper_router.features.extractors import extractor_identity
from whisper_router.features.live import LiveReader
from whisper_router.features.options import Extractor
from whisper_router.features.store import FeatureReader
from whisper_router.files import read_json, read_parquet
from whisper_router.paths import ARMS, FEATURES, MANIFEST

Reader = FeatureReader | LiveReader


def open_features(name: str, extractor: Extractor, batch_size: int) -> Reader:
    """Open the features of an extractor.

    Raises
    ------
    UserError
        They are those of other options or of another arm.
    """
    reference = arm_references(read_json(ARMS))[extractor.arm]
    folder = FEATURES / name
    if extractor.kind == "encoder" and not extractor.is_stored:
        return LiveReader(folder, extractor, reference, read_parquet(MANIFEST), batch_size)
    return FeatureReader(folder, extractor_identity(extractor, reference.spec()))

"""The features that featurize made for an extractor of params.yaml."""

from whisper_router.asr.reference import arm_references
from whisper_router.features.kinds import AnyExtractor
from whisper_router.features.live import LiveReader, Reader
from whisper_router.features.reading import identity_of, specs_of
from whisper_router.features.store import FeatureReader
from whisper_router.files import read_json, read_parquet
from whisper_router.paths import ARMS, FEATURES, MANIFEST


def open_features(name: str, extractor: AnyExtractor) -> Reader:
    """Open them, or what encodes them when they are read.

    Raises
    ------
    UserError
        They are those of other options, of another arm or of another model.
    """
    references, folder = arm_references(read_json(ARMS)), FEATURES / name
    if extractor.kind == "encoder" and not extractor.is_stored:
        return LiveReader(folder, extractor, references[extractor.arm], read_parquet(MANIFEST))
    return FeatureReader(folder, identity_of(extractor, specs_of(references)))

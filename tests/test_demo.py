"""What the demo says of a dvc.lock that differs from the committed one."""

from whisper_router.demo import lock_difference

LOCK = """
schema: '2.0'
stages:
  label:
    cmd: python -m flows.label
    deps:
    - {path: data/manifest.parquet, md5: aa}
    - {path: src/whisper_router/labelling.py, md5: bb}
    params:
      params.yaml: {runtime.batch_size: 16}
    outs:
    - {path: data/labels.parquet, md5: cc}
  train:
    cmd: python -m flows.train
    deps:
    - {path: data/labels.parquet, md5: cc}
    outs:
    - {path: data/decider, md5: dd}
"""


def test_equal_locks_do_not_differ() -> None:
    assert lock_difference(LOCK, LOCK) is None


def test_other_outputs_of_the_same_code_are_the_processor_s() -> None:
    said = lock_difference(LOCK, LOCK.replace("md5: cc", "md5: ee"))
    assert said is not None
    assert said.startswith("This processor")
    assert "outputs of label differ" in said
    for command in ("`whisper-router register --commit`", "`git checkout dvc.lock`"):
        assert command in said


def test_other_code_or_parameters_are_named_with_their_stage() -> None:
    for changed in (LOCK.replace("md5: bb", "md5: ee"), LOCK.replace("batch_size: 16", "batch_size: 8")):
        said = lock_difference(LOCK, changed)
        assert said is not None
        assert "(label)" in said
        assert "`whisper-router register --commit`" in said

"""What a corpus knows of its speakers: the floor that a decider with metadata alone would reach.

A router hears audio alone, so this is for the experiments.
"""

import json

import numpy as np
import pandas as pd


def speaker_tags(manifest: pd.DataFrame) -> pd.DataFrame:
    """Tags of the manifest that say something of the speaker, one-hot: a column a corpus, tag and value.

    A tag counts in a corpus where each of its speakers has one value of it, as with accent or age; a value
    where two speakers share it. All others are zeros, as a value that training has not seen would be: it
    says nothing of a speaker who is new.

    Returns
    -------
    DataFrame
        A row an utterance, float32; without columns where there is no such tag.
    """
    tags = manifest["tags"].map(lambda text: json.loads(text) if text else {})
    rows = pd.DataFrame(
        [
            (i, corpus, speaker, str(tag), str(value))
            for i, (corpus, speaker, values) in enumerate(
                zip(manifest["corpus"], manifest["speaker"], tags, strict=True)
            )
            for tag, value in values.items()
        ],
        columns=["row", "corpus", "speaker", "tag", "value"],
    )
    of_speaker = rows.groupby(["corpus", "tag", "speaker"])["value"].nunique().groupby(level=[0, 1]).max()
    shared = rows.groupby(["corpus", "tag", "value"])["speaker"].nunique()
    columns = {}
    for corpus, tag, value in shared[shared > 1].index:
        if of_speaker[corpus, tag] == 1:
            held = rows[(rows["corpus"] == corpus) & (rows["tag"] == tag) & (rows["value"] == value)]
            column = np.zeros(len(manifest), dtype=np.float32)
            column[held["row"]] = 1
            columns[f"{corpus}: {tag}={value}"] = column
    return pd.DataFrame(columns, index=manifest["id"])

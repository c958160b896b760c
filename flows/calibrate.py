"""calibrate: deciders on the calibration split, or out of fold -> data/policy/<name>.json."""

import torch
from prefect import flow

from flows.stage import main
from whisper_router.files import replacing_folder, write_text
from whisper_router.params import load_params
from whisper_router.paths import POLICY
from whisper_router.policy.lines import policy_details, policy_line
from whisper_router.policy.make import make_policy
from whisper_router.policy.samples import ids_of, needs_earlier, read_labelled, score
from whisper_router.progress import is_verbose


@flow(name="calibrate")
def calibrate() -> None:
    """Choose the threshold of every policy in params.yaml."""
    params = load_params()
    torch.set_num_threads(1)
    part = read_labelled(params, "calibration")
    scored = {
        decider: score(params, decider, part, ids_of("dev") if needs_earlier(params, decider) else ())
        for decider in {options.decider: None for options in params.policies.values()}
    }
    width = max(map(len, params.policies))
    with replacing_folder(POLICY) as folder:
        for name, options in params.policies.items():
            sample, extractor = scored[options.decider]
            bound = part.bound(options.decider, extractor, getattr(options, "currency", None))
            policy = make_policy(name, options, sample, bound)
            write_text(folder / f"{name}.json", policy.to_json())
            print(policy_line(policy, width, part.reference))
            if is_verbose():
                print(policy_details(policy, part.reference))


if __name__ == "__main__":
    main(calibrate)

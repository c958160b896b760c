"""Do guarantees keep their word? A thousand calibration sets from populations whose true risk is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whisper_router.evaluation import Pair
from whisper_router.policy.options import GuaranteeOptions
from whisper_router.policy.promise import guarantee

Array = np.ndarray

DRAWS = 1000
STEPS = np.linspace(0, 1, 20_001)


@dataclass(frozen=True)
class Population:
    """Scores are uniform; ``harm`` is the chance that an utterance of a score comes out worse by weak.

    ``spread`` 0: utterances are independent. Above: one speaker in ``spread`` has all the harm.
    """

    name: str
    harm: Callable[[Array], Array]
    spread: int = 0

    def risk(self, threshold: float, kind: str) -> float:
        """The true risk of a threshold: the mean of 0 or 1 losses is the share of all."""
        under = STEPS[threshold > STEPS]
        if not under.size:
            return 0.0
        mean = float(self.harm(under).mean())
        return mean if kind == "weak" else mean * min(threshold, 1.0)

    def draw(self, random: np.random.Generator, speakers: int, each: int) -> tuple[Array, Array, Array]:
        """Scores, harm and speakers of a calibration set."""
        owner = np.repeat(np.arange(speakers), each)
        scores = np.round(random.uniform(size=owner.size), 6)
        chance = self.harm(scores)
        if self.spread:
            bad = random.uniform(size=speakers) < 1 / self.spread
            chance = np.minimum(chance * self.spread, 1) * bad[owner]
        return scores, random.uniform(size=owner.size) < chance, owner


POPULATIONS = (
    Population("scores are probabilities", lambda s: 0.4 * s),
    Population("scores are far too low near 0", lambda s: 0.3 * np.sqrt(s)),
    Population("scores say nothing", lambda s: np.full_like(s, 0.12)),
    Population("scores upside down", lambda s: 0.3 * (1 - s)),
    Population("scores are probabilities; one speaker in three has all the harm", lambda s: 0.3 * s, 3),
)


def pair_of(harm: Array, speakers: Array) -> Pair:
    """Utterances of one word, whose weak hypothesis is wrong where there is harm."""
    nothing = {"macs": np.zeros(len(harm))}
    zeros = np.zeros(len(harm))
    words = np.ones(len(harm), dtype=int)
    return Pair(speakers, words, harm.astype(int), zeros.astype(int), harm.astype(int), zeros, zeros,
                nothing, nothing, nothing, nothing)  # fmt: skip


def simulate(
    population: Population,
    options: GuaranteeOptions,
    speakers: int,
    each: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """How often the true risk of the chosen threshold is above alpha, and how much goes to the weak arm."""
    random = np.random.default_rng(seed)
    found, promised, weak = [], 0, []
    for _ in range(draws):
        scores, harm, owner = population.draw(random, speakers, each)
        earlier = random.uniform(size=100)
        threshold, promise = guarantee(options, pair_of(harm, owner), scores, earlier)
        found.append(population.risk(threshold, options.risk))
        promised += promise.holds
        weak.append(min(threshold, 1.0))
    risks = np.array(found)
    return {
        "risk": options.risk,
        "unit": options.unit,
        "population": population.name,
        "speakers": speakers,
        "utterances": speakers * each,
        "alpha": options.alpha,
        "delta": options.delta,
        "draws": draws,
        "fails": int((risks > options.alpha + 1e-9).sum()),
        "mean_risk": round(float(risks.mean()), 4),
        "promised": promised,
        "mean_weak_share": round(float(np.mean(weak)), 4),
    }

"""What a runtime has done, for metrics."""

import dataclasses


@dataclasses.dataclass
class Counts:
    """What was done since the start.

    Attributes:
        iterations: iterations.
        prompt_tokens: tokens of prompts, of which ``reused_tokens`` were in a cache.
        reused_tokens: see above.
        shared_tokens: tokens of prompts of which the layers that adapters share alone were in one.
        new_tokens: tokens that were added.
        scored_tokens: tokens that were computed to score something.
        padding_tokens: places in calls that held no token.
        paused_texts: how often a text gave up its row for somebody else's.
    """

    iterations: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    shared_tokens: int = 0
    new_tokens: int = 0
    scored_tokens: int = 0
    padding_tokens: int = 0
    paused_texts: int = 0

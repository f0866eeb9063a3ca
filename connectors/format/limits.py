"""The bounds and the defaults of what a journal line may say, each written once.

The configuration (Pydantic, for people) and the records of the journal (msgspec, for the dataflow) check the same
values. Both take their numbers from here. A pair is the smallest and the largest allowed value, both included.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = [
    "ALERTS_A_MINUTE",
    "CLEAR_AFTER_S",
    "CLEAR_RATIO",
    "DEFAULT_CLEAR_AFTER_S",
    "DEFAULT_CLEAR_RATIO",
    "DEFAULT_CODEC",
    "DEFAULT_FORGET_AFTER_S",
    "DEFAULT_GROUP_CLEAR_AFTER_S",
    "DEFAULT_GROUP_CLEAR_RATIO",
    "DEFAULT_GROUP_RAISE_RATIO",
    "DEFAULT_LENGTH_S",
    "DEFAULT_MAX_LATENCY_MS",
    "DEFAULT_MIN_CONVERSATIONS",
    "DEFAULT_PACKET_LOSS_THRESHOLD",
    "DEFAULT_RAISE_FRAMES",
    "DEFAULT_SLIDE_S",
    "FORGET_AFTER_S",
    "GENESYS_MOS",
    "GROUP_CONVERSATIONS",
    "LABEL_CHARACTERS",
    "LABEL_NAME",
    "LOSS_RATIO",
    "MAX_EPOCH_S",
    "MAX_GROUP_LABELS",
    "MAX_LABELS",
    "MAX_OVERLAP",
    "MAX_TEXT_CHARACTERS",
    "MOS",
    "RAISE_FRAMES",
    "STALLED_AFTER_S",
    "WELL_KNOWN_LABELS",
    "WINDOW_S",
    "CodecName",
]

CodecName = Literal["g711", "g711-no-plc", "g729a"]

# A larger number is not a time in epoch seconds: it is most likely in milliseconds.
MAX_EPOCH_S: Final = 1e10
# The characters kept of a text that is not a record.
MAX_TEXT_CHARACTERS: Final = 4096

LOSS_RATIO: Final = (0, 1)
WINDOW_S: Final = (0.001, 3600)
# Of how many windows a frame may be part.
MAX_OVERLAP: Final = 1000
RAISE_FRAMES: Final = (1, 1000)
CLEAR_RATIO: Final = (0, 1)
CLEAR_AFTER_S: Final = (0, 86_400)
MOS: Final = (1, 4.5)
GENESYS_MOS: Final = (1, 5)
SILENCE_DBFS: Final = (-98, 0)
SILENT_AFTER_S: Final = (1, 3600)
DEFAULT_SILENCE_DBFS: Final = -60.0
TRUNK_MISMATCHES: Final = (0, 1_000_000)
STALLED_AFTER_S: Final = (0.001, 86_400)
FORGET_AFTER_S: Final = (1, 2_592_000)
# The labels of one conversation: how many there may be, how a name is formed, how long a value is.
MAX_LABELS: Final = 16
LABEL_NAME: Final = r"\A[a-z][a-z0-9_]{0,31}\Z"
LABEL_CHARACTERS: Final = (1, 128)
WELL_KNOWN_LABELS: Final = (
    "queue", "agent", "team", "division", "edge", "provider", "direction", "region", "station", "trunk", "media",
)  # fmt: skip

# Groups: how many labels they can be made by, and how many conversations raise an incident of one.
MAX_GROUP_LABELS: Final = 8
GROUP_CONVERSATIONS: Final = (1, 1_000_000)
ALERTS_A_MINUTE: Final = (1, 1_000_000)

DEFAULT_MIN_CONVERSATIONS: Final = 5
DEFAULT_GROUP_RAISE_RATIO: Final = 0.3
DEFAULT_GROUP_CLEAR_RATIO: Final = 0.15
DEFAULT_GROUP_CLEAR_AFTER_S: Final = 30.0
DEFAULT_MAX_LATENCY_MS: Final = 150.0
DEFAULT_PACKET_LOSS_THRESHOLD: Final = 0.02
DEFAULT_LENGTH_S: Final = 10.0
DEFAULT_SLIDE_S: Final = 5.0
DEFAULT_CODEC: Final = "g711"
DEFAULT_RAISE_FRAMES: Final = 1
DEFAULT_CLEAR_RATIO: Final = 0.9
DEFAULT_CLEAR_AFTER_S: Final = 10.0
DEFAULT_FORGET_AFTER_S: Final = 21_600.0

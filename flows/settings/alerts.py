"""The `[alerts]` table."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from connectors.format import limits
from flows.settings.notify import Severity
from flows.settings.values import Between, HttpUrl, Table

__all__ = ["NOT_RECORDED", "AlertSettings"]

# The dataflow does not read them: the AudioHook feed decides what is silence, and severities are the targets' business.
NOT_RECORDED: Final = {"silent_after_s", "silence_dbfs", "severity"}


class AlertSettings(Table):
    """`[alerts]`: when an alert is raised and resolved; without their limits, LOW_MOS and STREAM_STALLED are off."""

    policy: Literal["incident", "frame"] = Field(
        default="incident",
        description='`"incident"` raises and resolves alerts; `"frame"` raises an alert for each frame above a limit '
        "and resolves none",
    )
    raise_m: Annotated[int, AfterValidator(Between(*limits.RAISE_FRAMES))] = Field(
        default=limits.DEFAULT_RAISE_FRAMES,
        description="an alert is decided on the last `raise_m` frames that carry the metric",
    )
    raise_n: Annotated[int, AfterValidator(Between(*limits.RAISE_FRAMES))] = Field(
        default=limits.DEFAULT_RAISE_FRAMES,
        description="how many of these frames must be above the limit; must not exceed `raise_m`",
    )
    clear_ratio: Annotated[float, AfterValidator(Between(*limits.CLEAR_RATIO))] = Field(
        default=limits.DEFAULT_CLEAR_RATIO,
        description="an alert can be resolved at or below `clear_ratio` times the limit",
    )
    clear_after_s: Annotated[float, AfterValidator(Between(*limits.CLEAR_AFTER_S))] = Field(
        default=limits.DEFAULT_CLEAR_AFTER_S,
        description="an alert is resolved once no value was above that level for this many seconds",
    )
    unwatched: Literal["ignore", "default"] = Field(
        default="ignore", description='`"default"` watches every conversation, with the limits of `[defaults]`'
    )
    mos_below: Annotated[float, AfterValidator(Between(*limits.MOS))] | None = Field(
        default=None,
        description="limit of the rule `LOW_MOS`: it raises an alert when the MOS of a window is below it; without it "
        "the rule is off",
    )
    genesys_mos_below: Annotated[float, AfterValidator(Between(*limits.GENESYS_MOS))] | None = Field(
        default=None,
        description="limit of the rule `LOW_MOS` for the lowest MOS of a leg that Genesys measured (scale `genesys-5`, "
        "best value 4.89); without it, `mos_below` is the limit",
    )
    trunk_mismatch_above: Annotated[float, AfterValidator(Between(*limits.TRUNK_MISMATCHES))] | None = Field(
        default=None,
        description="limit of the rule `PLATFORM_EVENT` for `qos.mismatchCount` of a trunk's metrics: raised above it, "
        "resolved at or below the limit times `clear_ratio`; without it, trunks raise no alert",
    )
    platform_callback_url: HttpUrl | None = Field(
        default=None, description="where `PLATFORM_EVENT` alerts are sent; without it they are only written"
    )
    silent_after_s: Annotated[float, AfterValidator(Between(*limits.SILENT_AFTER_S))] | None = Field(
        default=None,
        description="limit of the rules `ONE_WAY_AUDIO` and `DEAD_AIR` of AudioHook: seconds of silence on one channel "
        "while the other is not silent, or on both; without it the rules are off",
    )
    silence_dbfs: Annotated[float, AfterValidator(Between(*limits.SILENCE_DBFS))] = Field(
        default=limits.DEFAULT_SILENCE_DBFS,
        description="a second of audio below this level is silence, in dBFS; comfort noise is below -60",
    )
    stalled_after_s: Annotated[float, AfterValidator(Between(*limits.STALLED_AFTER_S))] | None = Field(
        default=None,
        description="limit of the rule `STREAM_STALLED`: it raises an alert when a live conversation has no frame for "
        "this many seconds while its feed is connected; without it the rule is off. It does not apply to "
        "notifications; `[[feed]]` has a limit for each feed",
    )
    max_per_minute: Annotated[int, AfterValidator(Between(*limits.ALERTS_A_MINUTE))] | None = Field(
        default=None,
        description="alerts that are sent in a minute; those above it are written and not sent, and `ALERT_STORM` "
        "counts them; without it there is no cap",
    )

    severity: dict[str, Severity] = Field(
        default={},
        description='severity of a rule\'s alerts for `[[notify]]`, for example `{LOW_MOS = "critical"}`; `"warning"` '
        "for every rule that is not named",
    )

    @field_validator("raise_n")
    @classmethod
    def _within_raise_m(cls, raise_n: int, info: ValidationInfo) -> int:
        raise_m = info.data.get("raise_m")
        if raise_m is not None and raise_n > raise_m:
            raise ValueError(f"{raise_n} must not exceed raise_m, which is {raise_m}")
        return raise_n

"""The configuration of what is watched by name: the `[defaults]` table and the `[[interceptor]]` list."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from connectors.format import limits
from flows.settings.labels import Labels
from flows.settings.values import (
    Between,
    HttpUrl,
    Table,
    Text,
    channels,
    language_tag,
    non_empty,
    refuse_cross_table_error,
    sip_address,
)

__all__ = ["InterceptorDefaults", "InterceptorSettings"]


class InterceptorDefaults(Table):
    """`[defaults]`: what holds for every interceptor that does not say otherwise."""

    leg_id: Text | None = Field(default=None, description="the call leg; it is sent to Genesys and part of every alert")
    interceptor_address: Annotated[
        Annotated[str, AfterValidator(sip_address)] | None, BeforeValidator(refuse_cross_table_error)
    ] = Field(default=None, description="where Genesys sends the media")
    audio_sampling_rate: Annotated[int, AfterValidator(Between(8000, 48_000))] = Field(
        default=16_000, description="in Hz; a value other than 8000 and 16000 is a warning"
    )
    channel_matrix: Annotated[tuple[Literal["mono", "stereo"], ...], Field(strict=False), AfterValidator(channels)] = (
        Field(
            default=(
                "mono",
                "stereo",
            ),
            description="the channels to intercept",
        )
    )
    transcription_enabled: bool = Field(default=False, description="ask Genesys for a transcription")
    transcription_language: Annotated[str, AfterValidator(language_tag)] = Field(
        default="en-US", description="language of the transcription"
    )
    max_latency_ms: Annotated[float, AfterValidator(Between(50, 500))] = Field(
        default=limits.DEFAULT_MAX_LATENCY_MS,
        description="latency limit in milliseconds; a frame above it counts against it",
    )
    packet_loss_threshold: Annotated[float, AfterValidator(Between(0, 0.1))] = Field(
        default=limits.DEFAULT_PACKET_LOSS_THRESHOLD,
        description="packet loss limit, as a ratio; a frame above it counts against it",
    )
    qa_callback_url: Annotated[HttpUrl | None, BeforeValidator(refuse_cross_table_error)] = Field(
        default=None, description="where the alerts of the conversation are sent"
    )
    labels: Labels = Field(default={}, description="labels of the conversation; windows and alerts carry them")


class InterceptorSettings(InterceptorDefaults):
    """`[[interceptor]]`: one conversation to watch, with the defaults filled in."""

    conversation_id: Annotated[str, AfterValidator(non_empty), BeforeValidator(refuse_cross_table_error)] = Field(
        description="the conversation to watch; any text, unique in the file"
    )
    leg_id: Text = Field(description="the call leg; it is sent to Genesys and part of every alert")
    interceptor_address: Annotated[str, AfterValidator(sip_address)] = Field(
        description="where Genesys sends the media"
    )
    qa_callback_url: HttpUrl = Field(description="where the alerts of the conversation are sent")

    _own: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def own(self) -> frozenset[str]:
        """Return the keys that stand in the table itself, and are not taken from `[defaults]`."""
        return self._own

    def watch_record(self) -> dict[str, Any]:
        """Return the value of the journal's `watch` record: all settings, as JSON types; labels only if it has any."""
        unset = None if self.labels else {"labels"}
        return {"conversation_id": self.conversation_id, **self.model_dump(mode="json", exclude=unset)}

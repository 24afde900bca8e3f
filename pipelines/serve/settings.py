"""What can be set: `args` of deploy/serve.yaml, and the lines of `sqllm serve --config`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sqllm.errors import UsageError


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field("embedded", description="a preset's name, or the folder of a model")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    min_replicas: int = Field(1, ge=1, description="copies of the model, one a GPU on cuda")
    max_replicas: int = Field(1, ge=1)
    model_cpus: int = Field(1, ge=1, description="CPUs of a copy of the model, which on cpu are its threads")
    min_ingress: int = Field(1, ge=1, description="processes that take uploads, decode and cut")
    max_ingress: int = Field(1, ge=1)
    ingress_cpus: float = Field(0.5, gt=0, description="CPUs booked for each of them")
    max_requests: int = Field(128, ge=1, description="recordings that an ingress has in hand; the next one is a 429")
    max_mb: float = Field(100, gt=0, description="of an upload: all its recordings together")
    max_audio_s: float = Field(1800, gt=0, description="length of a recording")
    max_channels: int = Field(8, ge=1)
    upload_timeout_s: float = Field(60, gt=0)
    timeout_s: float = Field(120, gt=0, description="for the scores, and again for the words")
    no_auth: bool = Field(False, description="answer everybody, without SQLLM_API_KEYS")

    @classmethod
    def of(cls, values: dict) -> Settings:
        """UsageError where a name or a value is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "settings"
            if first["type"] == "extra_forbidden":
                raise UsageError(f"no setting {name!r}; there are {', '.join(sorted(cls.model_fields))}") from None
            raise UsageError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None

    @model_validator(mode="after")
    def _in_order(self) -> Settings:
        for name in ("replicas", "ingress"):
            if getattr(self, f"max_{name}") < getattr(self, f"min_{name}"):
                raise ValueError(f"max_{name} is less than min_{name}")
        return self

"""The body that creates a job, and the parameters of lists: OpenAI's, and what zojax adds."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from zojax.serving.fine_tuning.from_use import FeedbackHyperparameters
from zojax.serving.fine_tuning.settings import Hyperparameters
from zojax.serving.schema import Body

_Short = Annotated[str, Field(max_length=64)]
_Prompt = Annotated[str, Field(min_length=1, max_length=10_000)]
_Word = Annotated[str, Field(min_length=1, max_length=100)]


class Paging(BaseModel):
    """Which page of a list is wanted.

    Attributes:
        limit: the most things on it.
        after: the id of the last thing of the page before.
    """

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100)
    after: str | None = Field(None, max_length=100)


class FilePaging(Paging):
    """Which page of the files is wanted."""

    limit: int = Field(10_000, ge=1, le=10_000)
    purpose: Literal["fine-tune"] | None = None
    order: Literal["asc", "desc"] = "desc"


class EventPaging(Paging):
    """Which page of a job's events is wanted, or all of them as they come."""

    stream: bool = False


class Supervised(BaseModel):
    """Settings of a supervised job."""

    model_config = ConfigDict(strict=True, extra="forbid")

    hyperparameters: Hyperparameters = Hyperparameters()


class Feedback(BaseModel):
    """Settings of a job that learns from use."""

    model_config = ConfigDict(strict=True, extra="forbid")

    hyperparameters: FeedbackHyperparameters = FeedbackHyperparameters()


class Method(BaseModel):
    """How to learn: from a file, or from rewards for what is served."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["supervised", "feedback"]
    supervised: Supervised | None = None
    feedback: Feedback | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Method":
        other = self.feedback if self.type == "supervised" else self.supervised
        if other is not None:
            raise ValueError(f"method.type is {self.type}: give no settings of another one")
        return self


class LabelledData(BaseModel):
    """How rows of a text and a label are read.

    Attributes:
        prompt: a template with ``{text}``, after which a label's word follows.
        candidates: the words of the labels, such as ``{"1": " great", "0": " terrible"}``.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: _Prompt | None = None
    candidates: Annotated[dict[_Word, _Word], Field(max_length=64)] | None = None


class CreateJobBody(Body):
    """The body of ``/v1/fine_tuning/jobs``."""

    model: str  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    training_file: _Short | None = None
    validation_file: _Short | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    seed: int = Field(42, ge=0, lt=1 << 31)
    suffix: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    metadata: dict[_Short, Annotated[str, Field(max_length=512)]] = Field({}, max_length=16)
    integrations: list[Any] = Field([])
    data: LabelledData = LabelledData()

    @model_validator(mode="after")
    def _is_supported(self) -> "CreateJobBody":
        if self.integrations:
            raise ValueError("integrations: there are none here; leave it out")
        if self.hyperparameters is not None and self.method is not None:
            raise ValueError("hyperparameters: give them in method alone")
        if self.learns_from_use:
            if self.training_file is not None or self.validation_file is not None:
                raise ValueError("training_file: a job that learns from use has none; leave it out")
            if self.data != LabelledData():
                raise ValueError("data: is for rows of a text and a label")
        elif self.training_file is None:
            raise ValueError("training_file: give the id of a file to learn from")
        return self

    @property
    def learns_from_use(self) -> bool:
        """Whether it learns from rewards, and not from a file."""
        return self.method is not None and self.method.type == "feedback"

    @property
    def asked(self) -> Hyperparameters:
        """The hyperparameters, wherever they stand."""
        if self.method is not None and self.method.supervised is not None:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()

    @property
    def asked_of_use(self) -> FeedbackHyperparameters:
        """The hyperparameters of a job that learns from use."""
        if self.method is None or self.method.feedback is None:
            return FeedbackHyperparameters()
        return self.method.feedback.hyperparameters

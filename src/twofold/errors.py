"""Every exception twofold raises on purpose.

TwofoldError
├── CheckpointError          a file of the model is missing, damaged or contradicts another
│   ├── MissingTensor        a weight the network needs is not in the checkpoint
│   └── WrongTensor          a weight is there with another shape or dtype
├── UnsupportedModel         an architecture, a config key or a quantisation we do not run
├── ModelNotFound            neither a folder nor a hub id that can be reached
├── TokenizerError           the tokenizer's files are damaged or do not fit the model
├── TemplateError            a conversation cannot be rendered
├── QuantisationError        a model cannot be quantised as asked for
├── OutOfMemory              the model or its cache does not fit, said before loading; or no room to copy mapped weights
├── RequestError             one request is wrong; the engine goes on
│   ├── InvalidSampling      a sampling setting is out of its range
│   ├── RequestTooLong       more tokens than the context or the cache holds
│   ├── Overloaded           as many requests wait as may wait; try again later
│   ├── ShuttingDown         no new requests are taken
│   ├── SlowReader           an answer was not read as fast as it was made, and its buffer is full
│   ├── GrammarFailed        the form an answer must have cannot be gone on with
│   └── BadLogits            the network gave no finite number to draw a token from
├── SettingsError            an unknown or contradictory setting
├── BenchError               something that is measured does not answer as it should
├── RankLost                 a process that holds a part of the model has ended
├── UnsupportedOp            a backend cannot do what the network asks for
└── NativeUnavailable        the native library is missing or cannot run on this CPU

A message says what is wrong, what was found, what was expected, and what to do about it.
"""


class TwofoldError(Exception):
    """Root of everything raised on purpose."""


class CheckpointError(TwofoldError):
    """A file of the model is missing, damaged or contradicts another."""


class MissingTensor(CheckpointError):
    """A weight the network needs is not in the checkpoint."""


class WrongTensor(CheckpointError):
    """A weight is there with another shape or dtype."""


class UnsupportedModel(TwofoldError):
    """An architecture, a config key or a quantisation that is not supported."""


class ModelNotFound(TwofoldError):
    """Neither a folder nor a hub id that can be reached."""


class TokenizerError(TwofoldError):
    """The tokenizer's files are damaged or do not fit the model."""


class TemplateError(TwofoldError):
    """A conversation cannot be rendered."""


class QuantisationError(TwofoldError):
    """A model cannot be quantised as asked for: unusable calibration, or a half-written folder of another run."""


class OutOfMemory(TwofoldError):
    """The model or its cache does not fit into memory, said before loading; or mapped weights could not be copied."""


class RequestError(TwofoldError):
    """One request is wrong; the engine goes on."""


class InvalidSampling(RequestError):
    """A sampling setting is out of its range."""


class RequestTooLong(RequestError):
    """More tokens than the context or the cache holds."""


class Overloaded(RequestError):
    """As many requests wait as may wait; try again later."""


class ShuttingDown(RequestError):
    """No new requests are taken."""


class SlowReader(RequestError):
    """An answer was not read as fast as it was made, and its buffer is full."""


class GrammarFailed(RequestError):
    """The form an answer must have is too complex, or leaves no token to go on with."""


class BadLogits(RequestError):
    """The network gave no finite number to draw a token from."""


class SettingsError(TwofoldError):
    """An unknown or contradictory setting."""


class BenchError(TwofoldError):
    """Something that is measured does not answer as it should."""


class RankLost(TwofoldError):
    """A process that holds a part of the model has ended, so nothing can be computed any more."""


class UnsupportedOp(TwofoldError):
    """A backend cannot do what the network asks for."""


class NativeUnavailable(TwofoldError):
    """The native library is missing or cannot run on this CPU."""

"""Deploy machine-learning models on event streams: one predictor, any backend."""

from eventml.bus import Bus, ReadDelivery, Router
from eventml.errors import (
    BackendError,
    ConfigError,
    DecodeError,
    EventMLError,
    HandlerTimeoutError,
    ModelError,
    NotOpenError,
    OutputError,
    PredictionError,
    PublishError,
    RegistrationError,
    Reject,
    RequestError,
    RequestTimeoutError,
    UnavailableError,
)
from eventml.models import Artefact, Model
from eventml.producer import BlockingProducer
from eventml.records import Delivery, Output, Record
from eventml.runtime import Prediction

__all__ = [
    "Artefact",
    "BackendError",
    "BlockingProducer",
    "Bus",
    "ConfigError",
    "DecodeError",
    "Delivery",
    "EventMLError",
    "HandlerTimeoutError",
    "Model",
    "ModelError",
    "NotOpenError",
    "Output",
    "OutputError",
    "Prediction",
    "PredictionError",
    "PublishError",
    "ReadDelivery",
    "Record",
    "RegistrationError",
    "Reject",
    "RequestError",
    "RequestTimeoutError",
    "Router",
    "UnavailableError",
]

"""Importing this module registers our architectures with transformers' Auto classes.

Architectures of plug-in packages are registered by their own modules, which are imported here.
"""

from __future__ import annotations

import importlib

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from llmctl import registry
from llmctl.models.attention import AttentionConfig, AttentionForCausalLM
from llmctl.models.ctc import CTCConfig, SpeechForCTC
from llmctl.models.lstm import LSTMConfig, LSTMForCausalLM
from llmctl.models.lstm_classifier import LSTMClassifierConfig, LSTMForSequenceClassification
from llmctl.models.lstm_seq2seq import LSTMForConditionalGeneration, LSTMSeq2SeqConfig
from llmctl.models.rnn import RNNConfig, RNNForCausalLM

for auto, config, model in (
    (AutoModelForCausalLM, RNNConfig, RNNForCausalLM),
    (AutoModelForCausalLM, LSTMConfig, LSTMForCausalLM),
    (AutoModelForCausalLM, AttentionConfig, AttentionForCausalLM),
    (AutoModelForSeq2SeqLM, LSTMSeq2SeqConfig, LSTMForConditionalGeneration),
    (AutoModelForCTC, CTCConfig, SpeechForCTC),
    (AutoModelForSequenceClassification, LSTMClassifierConfig, LSTMForSequenceClassification),
):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    auto.register(config, model, exist_ok=True)

for entry in registry.entries("models"):
    if entry.owner != registry.OWNER:
        importlib.import_module(registry.load("models", entry.name).implementation.partition(":")[0])

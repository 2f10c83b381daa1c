"""Tiny instances of the real classes."""

import copy
import functools

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.nano.parts import train_tokenizer
from sama_video.pipelines.pipeline_sama import SamaPipeline

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "semantic_dim": 12,
    "semantic_hidden_dim": 20,
}


def transformer(seed: int = 0, **changes) -> SamaTransformer3DModel:
    """Random everywhere, the parts that start at zero too."""
    torch.manual_seed(seed)
    model = SamaTransformer3DModel(**(TRANSFORMER | changes))
    for parameter in (model.type_embedding.weight, *model.semantic_head.proj.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[1.5] * 4).eval()


@functools.cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(num_samples=200, vocab_size=300)


def tokenizer() -> PreTrainedTokenizerFast:
    """Of 300 words; trained once, for that takes longer than the rest of a pipeline."""
    return copy.deepcopy(_tokenizer())


def pipeline(seed: int = 0, text: bool = True, **settings) -> SamaPipeline:
    settings = {"num_semantic_tokens": 5, "max_sequence_length": 24, "native_area": 32 * 32} | settings
    parts = {"transformer": transformer(seed), "vae": vae(seed)}
    if text:
        words = tokenizer()
        torch.manual_seed(seed)
        config = UMT5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        parts |= {"text_encoder": UMT5EncoderModel(config).eval(), "tokenizer": words}
    pipe = SamaPipeline(**parts, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe

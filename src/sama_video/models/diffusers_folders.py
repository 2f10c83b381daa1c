"""Parts of a pipeline from the folders that diffusers and transformers write, strictly and as they are stored.

Their own loaders cast to float32 and only warn of weights that are missing or unknown.
"""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan

from ..system.errors import UserError
from .autoencoder_sama_nano import AutoencoderSamaNano
from .checkpoint_files import StateDict, read_weights
from .convert_checkpoint import TIED, build_text_encoder, build_transformer, build_vae
from .foreign_weights import TEXT_ENCODER, TRANSFORMER, VAE, refuse_foreign
from .latents import VideoAutoencoder
from .official_names import SAMA_KEYS, STOCK_WAN
from .transformer_sama import SamaTransformer3DModel
from .weight_files import listed

_VAES = {model.__name__: model for model in (AutoencoderKLWan, AutoencoderSamaNano)}


def load_transformer_folder(folder: Path, config: Mapping[str, Any], notes: list[str]) -> SamaTransformer3DModel:
    """SAMA's or stock Wan's transformer; the latter gets SAMA's parts untrained.

    Args:
        config: what the folder's `config.json` holds, checked already.

    Raises:
        UserError: for another model, naming it, or listing every weight that does not fit.
    """
    if config.get("image_dim") or config.get("added_kv_proj_dim"):
        raise UserError(f"{folder} is an image-to-video model; SAMA has no place for its image parts")
    is_stock = config["_class_name"] == STOCK_WAN
    state = _read_state(folder, TRANSFORMER, notes)
    if is_stock and (new := [key for key in state if key.startswith(SAMA_KEYS)]):
        raise UserError(
            f"{folder} is of stock Wan's class and has SAMA's weights too: {listed(new)}; correct its config"
        )
    return build_transformer(state, _arguments(SamaTransformer3DModel, config, folder, notes), is_stock=is_stock)


def load_vae_folder(folder: Path, config: Mapping[str, Any], notes: list[str]) -> VideoAutoencoder:
    """Wan's autoencoder or the nano's; see `load_transformer_folder`."""
    vae_class = _VAES[config["_class_name"]]
    return build_vae(vae_class, _read_state(folder, VAE, notes), _arguments(vae_class, config, folder, notes))


def load_text_encoder_folder(folder: Path, config: Mapping[str, Any], notes: list[str]) -> Any:
    """UMT5's encoder; see `load_transformer_folder`."""
    state = _read_state(folder, TEXT_ENCODER, notes)
    return build_text_encoder({key: value for key, value in state.items() if key != TIED}, config)


def _read_state(folder: Path, what: str, notes: list[str]) -> StateDict:
    weights = read_weights(folder)
    refuse_foreign(weights.state, folder, what)
    notes += weights.notes
    return weights.state


def _arguments(model_class: type, config: Mapping[str, Any], folder: Path, notes: list[str]) -> dict[str, Any]:
    taken = signature(model_class.__init__).parameters
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    if unknown := sorted(public.keys() - taken.keys()):
        notes.append(f"{folder / 'config.json'} has settings that this model does not take: {', '.join(unknown)}")
    return {name: value for name, value in public.items() if name in taken}

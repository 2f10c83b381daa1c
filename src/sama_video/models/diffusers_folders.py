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
from .checkpoint_files import Weights, read_weights
from .convert_checkpoint import TIED, build_text_encoder, build_transformer, build_vae
from .foreign_weights import TEXT_ENCODER, TRANSFORMER, VAE, refuse_foreign
from .latents import VideoAutoencoder
from .official_names import SAMA_KEYS
from .transformer_sama import SamaTransformer3DModel
from .weight_files import listed, read_json_object

STOCK = "WanTransformer3DModel"
TRANSFORMERS = ("SamaTransformer3DModel", STOCK)
VAES = {model.__name__: model for model in (AutoencoderKLWan, AutoencoderSamaNano)}


def load_transformer_folder(folder: Path, notes: list[str]) -> SamaTransformer3DModel:
    """SAMA's or stock Wan's transformer; the latter gets SAMA's parts untrained.

    Raises:
        UserError: for another model, naming it, or listing every weight that does not fit.
    """
    config = read_json_object(folder / "config.json")
    _check_class(config, TRANSFORMERS, folder)
    if config.get("image_dim") or config.get("added_kv_proj_dim"):
        raise UserError(f"{folder} is an image-to-video model; SAMA has no place for its image parts")
    state = _weights(folder, TRANSFORMER, notes).state
    if config["_class_name"] == STOCK and (new := [key for key in state if key.startswith(SAMA_KEYS)]):
        raise UserError(
            f"{folder} is of stock Wan's class and has SAMA's weights too: {listed(new)}; correct its config"
        )
    arguments = _arguments(SamaTransformer3DModel, config, folder, notes)
    return build_transformer(state, arguments, is_stock=config["_class_name"] == STOCK)


def load_vae_folder(folder: Path, notes: list[str]) -> VideoAutoencoder:
    """Wan's autoencoder or the nano's. Raises UserError as `load_transformer_folder`."""
    config = read_json_object(folder / "config.json")
    vae_class = VAES[_check_class(config, tuple(VAES), folder)]
    return build_vae(vae_class, _weights(folder, VAE, notes).state, _arguments(vae_class, config, folder, notes))


def load_text_encoder_folder(folder: Path, notes: list[str]) -> Any:
    """UMT5's encoder. Raises UserError as `load_transformer_folder`."""
    config = read_json_object(folder / "config.json")
    if config.get("model_type") != "umt5":
        raise UserError(f"{folder} is not {TEXT_ENCODER} but a model of type {config.get('model_type')!r}")
    state = _weights(folder, TEXT_ENCODER, notes).state
    return build_text_encoder({key: value for key, value in state.items() if key != TIED}, config)


def _check_class(config: Mapping[str, Any], known: tuple[str, ...], folder: Path) -> str:
    name = config.get("_class_name")
    if name not in known:
        raise UserError(f"{folder} holds a model of the class {name!r}; what fits is {' or '.join(known)}")
    return str(name)


def _weights(folder: Path, what: str, notes: list[str]) -> Weights:
    weights = read_weights(folder)
    refuse_foreign(weights.state, folder, what)
    notes += weights.notes
    return weights


def _arguments(model_class: type, config: Mapping[str, Any], folder: Path, notes: list[str]) -> dict[str, Any]:
    taken = signature(model_class.__init__).parameters
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    if unknown := sorted(public.keys() - taken.keys()):
        notes.append(f"{folder / 'config.json'} has settings that this model does not take: {', '.join(unknown)}")
    return {name: value for name, value in public.items() if name in taken}

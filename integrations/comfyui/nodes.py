"""The nodes. What is ComfyUI's own is imported where it is used, so that ComfyUI decides what is loaded first."""

import dataclasses
from typing import Any

import torch

from sama_video import EditSettings
from sama_video.editing.settings import MOST_STRENGTH, Box
from sama_video.pipelines.loading import load
from sama_video.pipelines.scope import scope_note
from sama_video.pipelines.selection import Loading, find_model
from sama_video.system.errors import UserError

from .clips import box_mask, edit_clip
from .model import SamaModel

Inputs = dict[str, dict[str, tuple]]
_CATEGORY = "sama"
_HIGHEST_SEED = 2**53 - 1  # the largest number that JavaScript counts to


def _edit_inputs(source: str, kind: str) -> Inputs:
    """What both edit nodes take, beside their source."""
    return {
        "required": {
            "model": ("SAMA_MODEL",),
            source: (kind,),
            "instruction": ("STRING", {"multiline": True, "default": "Make it black and white"}),
            "seed": ("INT", {"default": 0, "min": 0, "max": _HIGHEST_SEED, "control_after_generate": True}),
            "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0 is the model's own number."}),
            "guidance": (
                "FLOAT",
                {
                    "default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1,
                    "tooltip": "0 is the model's own; 1 is no guidance.",
                },
            ),
            "strength": (
                "FLOAT",
                {
                    "default": 1.0, "min": 0.0, "max": MOST_STRENGTH, "step": 0.05,
                    "tooltip": "How far to go from the source: 0 is the source, 1 the edit, more goes beyond.",
                },
            ),
            "feather": (
                "INT",
                {
                    "default": -1, "min": -1, "max": 4096,
                    "tooltip": "Pixels inside the mask's border over which the edit fades in; -1 is 2 % of the shorter "
                    "side.",
                },
            ),
            "try_untaught": (
                "BOOLEAN",
                {
                    "default": False,
                    "tooltip": "Also run instructions that the model says it was not taught; else they are refused.",
                },
            ),
        },
        "optional": {
            "mask": ("MASK", {"tooltip": "1 is edited, 0 is kept to the pixel; one for all frames, or one for each."})
        },
    }  # fmt: skip


def _edited(
    model: SamaModel,
    images: torch.Tensor,
    instruction: str,
    *,
    seed: int,
    steps: int,
    guidance: float,
    strength: float,
    feather: int,
    try_untaught: bool,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    from .live import Live

    settings = EditSettings(
        seed=seed, num_inference_steps=steps or None, guidance_scale=guidance or None, strength=strength
    )
    live = Live(len(images))
    # ComfyUI runs nodes in inference mode, whose tensors could not leave it: adapters change weights in place.
    with torch.inference_mode(False), torch.no_grad(), model.ready() as pipe:
        note = scope_note(instruction.strip(), pipe.model_info.trained_for or {})
        if note is not None and not try_untaught:
            raise UserError(f"{note}; say it in other words, or switch `try_untaught` on")
        return edit_clip(
            pipe,
            images,
            instruction,
            settings,
            mask=mask,
            feather=None if feather < 0 else feather,
            progress=live.progress,
            show_preview=live.show_preview,
        )


class SamaLoadModel:
    """A model, on the device that ComfyUI uses."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Loads a SAMA model. ComfyUI keeps it until the node changes."
    FUNCTION = "load"
    RETURN_TYPES = ("SAMA_MODEL",)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("STRING", {"default": "nano", "tooltip": "nano, the folder of a model, or a hub id."}),
                "memory": (
                    ["auto", "full", "low"],
                    {
                        "tooltip": "How many weights stay on the device: as many as there is room for, all, as few as "
                        "possible."
                    },
                ),
                "device": (["default", "cpu"], {"tooltip": "default is the device that ComfyUI uses."}),
            }
        }

    def load(self, model: str, memory: str, device: str) -> tuple[SamaModel]:
        """Raises UserError for a model that cannot be loaded, with how to fix it."""
        from comfy import model_management  # pyright: ignore[reportMissingImports]

        found = find_model(model.strip())
        chosen = device if device == "cpu" else str(model_management.get_torch_device())
        if chosen != "cpu":
            model_management.unload_all_models()  # ComfyUI loads them again; `auto` goes by what is free now
            model_management.soft_empty_cache()
        with torch.inference_mode(False):
            return (SamaModel(pipe=load(Loading(model=found, device=chosen, memory=memory))),)


class SamaLoadLora:
    """A model with one more LoRA file."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Adds a LoRA from models/loras. Other branches that hold the model do not see it."
    FUNCTION = "load"
    RETURN_TYPES = ("SAMA_MODEL",)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        import folder_paths  # pyright: ignore[reportMissingImports] (ComfyUI's own)

        return {
            "required": {
                "model": ("SAMA_MODEL",),
                "lora": (folder_paths.get_filename_list("loras"),),
                "strength": ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}),
            }
        }

    def load(self, model: SamaModel, lora: str, strength: float) -> tuple[SamaModel]:
        """Raises UserError for a file that is no LoRA of this model."""
        import folder_paths  # pyright: ignore[reportMissingImports]

        with torch.inference_mode(False), torch.no_grad():
            return (model.with_lora(folder_paths.get_full_path_or_raise("loras", lora), strength),)


class SamaEditVideo:
    """VIDEO in, VIDEO out: its frames edited, its rate and sound kept."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Edits a video as an instruction says. Frame rate and sound stay."
    FUNCTION = "edit"
    RETURN_TYPES = ("VIDEO",)
    RETURN_NAMES = ("video",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _edit_inputs("video", "VIDEO")

    def edit(
        self, model: SamaModel, video: Any, instruction: str, mask: torch.Tensor | None = None, **options: Any
    ) -> tuple[Any]:
        """Raises UserError for what cannot be edited so."""
        from comfy_api.input_impl import VideoFromComponents  # pyright: ignore[reportMissingImports]

        components = video.get_components()
        images = _edited(model, components.images, instruction, mask=mask, **options)
        return (VideoFromComponents(dataclasses.replace(components, images=images)),)


class SamaEditImages:
    """IMAGE in, IMAGE out: the batch is a clip, its frames one after the other."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Edits the frames of a clip, or one picture, as an instruction says."
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _edit_inputs("images", "IMAGE")

    def edit(
        self, model: SamaModel, images: torch.Tensor, instruction: str, mask: torch.Tensor | None = None, **options: Any
    ) -> tuple[torch.Tensor]:
        """Raises UserError for what cannot be edited so."""
        return (_edited(model, images, instruction, mask=mask, **options),)


class SamaBoxMask:
    """A rectangle as a MASK of a video's or a clip's size."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "A rectangle to edit: X,Y,WIDTH,HEIGHT in pixels or percent of the video or images."
    FUNCTION = "draw"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"box": ("STRING", {"default": "25%,25%,50%,50%", "tooltip": "X,Y,WIDTH,HEIGHT"})},
            "optional": {"video": ("VIDEO",), "images": ("IMAGE",)},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, box: str | None = None) -> bool | str:
        """Whether ComfyUI shall run this box, or why not; None where another node will say it."""
        try:
            return box is None or bool(Box.parse(box))
        except UserError as error:
            return str(error)

    def draw(self, box: str, video: Any = None, images: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        """Raises UserError for a box outside of the picture, or where there is none."""
        if (video is None) == (images is None):
            raise UserError("connect either `video` or `images`: the mask is made in its size")
        width, height = video.get_dimensions() if images is None else (images.shape[2], images.shape[1])
        return (box_mask(box, height, width),)


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (SamaLoadModel, SamaLoadLora, SamaEditVideo, SamaEditImages, SamaBoxMask)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SamaLoadModel": "SAMA Load Model",
    "SamaLoadLora": "SAMA Load LoRA",
    "SamaEditVideo": "SAMA Edit Video",
    "SamaEditImages": "SAMA Edit Images",
    "SamaBoxMask": "SAMA Box Mask",
}

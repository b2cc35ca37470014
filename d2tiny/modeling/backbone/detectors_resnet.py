"""ResNet of DetectoRS: weight standardisation, switchable atrous convolution, and inputs for feedback."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import Conv2d
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import ConvAWS2d, SAConv2d
from d2tiny.layers.padding import padding_of_images

__all__ = ["DetectoRSResNet"]


class DetectoRSResNet(ResNet):
    """Detectron2's ResNet with :class:`ConvAWS2d` everywhere and :class:`SAConv2d` as second convolution of blocks.

    It starts as the plain ResNet with the same weights. ``feedback`` (one map for each returned stage but res2) is
    added, through a 1×1 convolution that starts at zero, before the last ReLU of the stage's first block (the second
    step of RFP).

    Differences from the paper: none known for bottlenecks; basic blocks (depth 18, 34) are ours.
    """

    prefix = ""  # read by freeze(), which Detectron2's constructor calls before the children are renamed

    def __init__(
        self,
        *,
        depth: int = 50,
        norm: str = "FrozenBN",
        sac: Sequence[bool] = (False, True, True, True),
        feedback_channels: int = 0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 2,
        stride_in_1x1: bool = False,
        prefix: str = "",
    ) -> None:
        """Build the network.

        Args:
            depth: 18, 34, 50, 101 or 152.
            norm: a normalisation layer of Detectron2, for example ``FrozenBN``.
            sac: which of the four stages have switchable atrous convolution.
            feedback_channels: channels of the maps that are fed back; 0 builds no inputs for them.
            out_features: stages to return.
            freeze_at: number of stages that are not trained; 1 is the stem alone.
            stride_in_1x1: True for the MSRA weights.
            prefix: of the children's names. A second ResNet in one model needs one, or Detectron2 cannot tell to which
                of the two an ImageNet checkpoint belongs.

        Raises:
            ValueError: ``sac`` does not have four elements.
        """
        if len(sac) != 4:
            raise ValueError(f"DetectoRSResNet: sac must say yes or no for 4 stages, got {list(sac)}.")
        options = {"stride_in_1x1": stride_in_1x1} if depth >= 50 else {}
        stages = ResNet.make_default_stages(depth, norm=norm, **options)
        stem = BasicStem(in_channels=3, out_channels=64, norm=norm)
        stem.conv1 = ConvAWS2d.from_conv(stem.conv1)
        for blocks, use_sac in zip(stages, sac, strict=True):
            for block in blocks:
                for name, conv in list(block.named_children()):
                    assert isinstance(conv, Conv2d)
                    setattr(block, name, (SAConv2d if use_sac and name == "conv2" else ConvAWS2d).from_conv(conv))
        super().__init__(stem, stages, out_features=list(out_features), freeze_at=freeze_at)
        self.feedback = nn.ModuleDict()
        for name in self.stage_names[1:]:
            if not feedback_channels or name not in self._out_features:
                continue
            conv = nn.Conv2d(feedback_channels, self._out_feature_channels[name], 1)
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
            self.feedback[name] = conv
        self.feedback_channels, self.prefix = feedback_channels, prefix
        for name in ("stem", *self.stage_names) if prefix else ():
            self._modules[prefix + name] = self._modules.pop(name)

    def freeze(self, freeze_at: int = 0) -> DetectoRSResNet:
        """Freeze the stem (1) and the stages up to ``freeze_at``; return self."""
        for name, number in zip(("stem", *self.stage_names), range(1, freeze_at + 1), strict=False):
            module = self.get_submodule(self.prefix + name)
            for block in [module] if number == 1 else module.children():
                block.freeze()
        return self

    def forward(self, x: Tensor, feedback: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Map images to the feature maps of the stages.

        Args:
            x: (B, 3, H, W).
            feedback: maps (B, ``feedback_channels``, H_s, W_s) by stage name, of the size of the stage.

        Returns:
            (B, C_s, H_s, W_s) by stage name, for the stages of ``out_features``.
        """
        outputs, padding = {}, padding_of_images(x)
        x = self.get_submodule(f"{self.prefix}stem")(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            extra = self.feedback[name](feedback[name]) if feedback and name in self.feedback else None
            for index, block in enumerate(stage):
                x = _apply_block(block, x, padding, None if index else extra)
            if name in self._out_features:
                outputs[name] = x
        return outputs


def _apply_block(block: nn.Module, x: Tensor, padding: Tensor | None, extra: Tensor | None) -> Tensor:
    """Apply a residual block.

    Args:
        block: of Detectron2.
        x: (B, C, H, W).
        padding: (B, 1, h, w) of the batch of images for the contexts of SAC; None without padding.
        extra: added before the last ReLU; None adds nothing.
    """
    if padding is None and extra is None:
        return block(x)
    out = x
    convs = [layer for name, layer in block.named_children() if name.startswith("conv")]
    for index, conv in enumerate(convs):
        out = F.relu(out) if index else out
        out = conv(out, padding) if isinstance(conv, SAConv2d) else conv(out)
    out = out + (block.get_submodule("shortcut")(x) if "shortcut" in block._modules else x)
    return F.relu(out if extra is None else out + extra)

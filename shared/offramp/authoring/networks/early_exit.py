"""A backbone cut into blocks, with an early-exit classifier (EEC) after any of them.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from offramp.authoring.networks.bottleneck import Bottleneck
from offramp.authoring.networks.origin import Origin
from offramp.errors import ConfigError


class EarlyExitNetwork(nn.Module):
    """Blocks f_1 … f_N and EECs C_i: the logits of exit i are C_i(f_b(… f_1(x))), where b is its block.

    Every module is an ordinary `nn.Module`. The last block always has an EEC: the backbone's own classifier.
    """

    def __init__(self, blocks: Sequence[nn.Module], eecs: Mapping[int, nn.Module]) -> None:
        """Join blocks and EECs.

        Args:
            blocks: feature -> feature, in order; block 1 takes normalised pixels (B, C, H, W).
            eecs: feature -> logits (B, K), by the number of the block that each one follows, counted from 1.

        Raises:
            ConfigError: there are no blocks, an EEC follows a block that does not exist, or the last block has none.
        """
        super().__init__()
        self.origin: Origin | None = None
        self.bottleneck: Bottleneck | None = None
        if not blocks:
            raise ConfigError("a network needs at least one block, got none")
        beyond = [number for number in eecs if not 1 <= number <= len(blocks)]
        if beyond:
            raise ConfigError(f"an EEC follows block {beyond[0]}, but the blocks are 1 to {len(blocks)}")
        if len(blocks) not in eecs:
            raise ConfigError(
                f"the last block, {len(blocks)}, has no EEC; give it the backbone's own classifier, "
                "so that every sample is answered"
            )
        self.blocks = nn.ModuleList(blocks)
        self.eecs = nn.ModuleDict({str(number): eecs[number] for number in sorted(eecs)})

    @property
    def num_exits(self) -> int:
        """Number of exits, the last one included."""
        return len(self.eecs)

    def eec_behind(self, block_number: int) -> nn.Module | None:
        """The EEC after a block, counted from 1, if it has one."""
        key = str(block_number)
        return self.eecs[key] if key in self.eecs else None  # noqa: SIM401 - ModuleDict has no get

    @property
    def exit_blocks(self) -> tuple[int, ...]:
        """Number of the block that each exit follows, shallow to deep."""
        return tuple(int(number) for number in self.eecs)

    def static(self) -> EarlyExitNetwork:
        """The backbone alone, as one block with its own classifier: what every early-exit figure is compared with."""
        return EarlyExitNetwork([nn.Sequential(*self.blocks)], {1: self.eecs[str(len(self.blocks))]})

    def bottleneck_behind(self, block_number: int) -> Bottleneck | None:
        """The bottleneck after a block, counted from 1, if it has one; the block's EEC sees the feature before it."""
        found = self.bottleneck
        return found if found is not None and found.spec.split_point == block_number + 1 else None

    def feature_behind(self, block_number: int, image_BCHW: Tensor) -> Tensor:
        """What a block computes, before any bottleneck after it."""
        feature = image_BCHW
        for number, block in enumerate(self.blocks[:block_number], start=1):
            feature = block(feature)
            bottleneck = self.bottleneck_behind(number)
            if bottleneck is not None and number < block_number:
                feature = bottleneck(feature)
        return feature

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Run every block and every EEC, as training needs it.

        Args:
            image_BCHW: normalised pixels.

        Returns:
            Logits (B, K) of every exit, shallow to deep.
        """
        return list(self.logits_at(image_BCHW, range(1, self.num_exits + 1)).values())

    def logits_at(self, feature: Tensor, exits: Collection[int], *, after: int = 0) -> dict[int, Tensor]:
        """Run the EECs of some exits, and no block after the last of them.

        Args:
            feature: normalised pixels (B, C, H, W), or what the block `after` computes.
            exits: numbers of the exits, counted from 1; none lies before the block `after`.
            after: number of the block that has run already; 0 for pixels.

        Returns:
            Logits (B, K) by exit number, shallow to deep.
        """
        wanted = {block: number for number, block in enumerate(self.exit_blocks, start=1) if number in exits}
        logits_by_exit = {}
        for block_number in range(after, max(wanted) + 1):
            if block_number > after:
                feature = self.blocks[block_number - 1](feature)
            if block_number in wanted:
                logits_by_exit[wanted[block_number]] = self.eecs[str(block_number)](feature)
            bottleneck = self.bottleneck_behind(block_number)
            if bottleneck is not None:
                feature = bottleneck(feature)
        return logits_by_exit

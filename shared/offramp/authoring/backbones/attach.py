"""Turns an ordinary torch classifier into an early-exit network: cut it, attach EECs, check that it answers the same.

Shapes: B samples, C channels, H x W pixels, T tokens, D width, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.export import ExportedProgram

from offramp.authoring.backbones.eecs import eecs_behind
from offramp.authoring.backbones.graph import Graph
from offramp.authoring.backbones.head import ends_in_softmax, head_for
from offramp.authoring.backbones.rehearsal import Random, find_random, in_mode
from offramp.authoring.backbones.tracing import backbone_graph, exported, is_exported
from offramp.authoring.backbones.training_check import check_trains_alike
from offramp.authoring.networks.agreement import check_images_apart
from offramp.authoring.networks.classifier import LogitsOnly, as_classifier, check_runs
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.origin import Cut, Origin
from offramp.errors import ConfigError

TOLERANCE = 1e-5
"""Largest difference between the logits of a backbone and those of its blocks together."""

_NEAR = 0.02  # share of the backbone's cost; cuts this close count as the same place
_FAR = 0.1  # share of the backbone's cost; an exit moved further than this is worth a warning

_log = logging.getLogger(__name__)


def attach_exits(
    model: nn.Module | ExportedProgram,
    *,
    image_shape: tuple[int, int, int],
    exits: Sequence[float] = (0.25, 0.5),
    eec_shares: Sequence[float] | None = None,
    num_classes: int | None = None,
) -> EarlyExitNetwork:
    """Cut an ordinary classifier into blocks and attach EECs, which you then train.

    A model can be cut where a single tensor carries everything. These places are found in torch.export's graph, so it
    does not matter how the model is written. The blocks share the model's weights and train like the model: batch
    norm, dropout and stochastic depth obey `train()` and `eval()`. The network's `origin` records how it was cut.

    Args:
        model: normalised pixels (B, C, H, W) -> logits (B, K): a tensor, the first of a tuple, `.logits`, or 'logits'
            in a dict. Or a program of torch.export, for any number of images.
        image_shape: (C, H, W).
        exits: where to put the early exits, as rising shares of the backbone's cost between 0 and 1. Each goes to the
            nearest possible cut; if several are about as near, to the one with the smallest feature.
        eec_shares: the most that each exit's EEC may cost, as shares of the backbone's cost; unless given, half of the
            block after it, and at most a tenth of the backbone.
        num_classes: K, for a model that was trained for other classes: an untrained layer replaces its last one.

    Returns:
        A network whose last exit gives the model's logits to within 1e-5, before any new layer. Its EECs are untrained:
        they start with copies of the backbone's later layers, if it has residual blocks that they can do without.

    Raises:
        ConfigError: the model cannot be traced, mixes the images of a batch, would not train the same in blocks, or
            has too few places to cut; the message says where and why.
    """
    check_shares(exits, eec_shares)
    found = traced(model, image_shape)
    graph = backbone_graph(found.program, image_shape)
    head = None if num_classes is None else head_for(graph, num_classes)
    classes = num_classes or graph.num_classes
    network = attach_to(graph, image_shape, exits, eec_shares, classes, difference=found.difference)
    if found.is_module:
        check_trains_alike(found.model, network, image_shape, found.random)
    if head is not None:
        assert network.origin is not None, "attach_to records how it cut the network"
        before = head.node.all_input_nodes[0]
        head.replace(graph)
        # The new layer is an exit's, so that it learns where the backbone doesn't.
        network.blocks[-1] = graph.block(network.origin.chosen[-1].node, before).eval()
        network.eecs[str(len(network.blocks))] = graph.block(before, graph.logits).eval()
        head.check(network, image_shape)
    if ends_in_softmax(graph):
        _log.warning(
            "event=softmax detail=%r",
            "the backbone ends in a softmax; let it return logits, which training expects",
        )
    return network


def attach_to(
    graph: Graph,
    image_shape: tuple[int, int, int],
    exits: Sequence[float],
    eec_shares: Sequence[float] | None,
    num_classes: int,
    *,
    difference: Callable[[EarlyExitNetwork], float],
) -> EarlyExitNetwork:
    """Cut a graph into blocks and attach EECs.

    Args:
        graph: of a backbone.
        image_shape: (C, H, W).
        exits: rising shares of the backbone's cost, as for `attach_exits`.
        eec_shares: the most that each EEC may cost, as for `attach_exits`.
        num_classes: K of the early exits.
        difference: largest difference between the backbone and the network's last exit; it may refuse the network.

    Raises:
        ConfigError: there are too few places to cut, or an EEC would cost more than it may.
    """
    cuts = graph.cuts()
    if len(cuts) < len(exits):
        asked = "1 exit" if len(exits) == 1 else f"{len(exits)} exits"
        advice = "ask for fewer exits" if cuts else "put its layers behind one another"
        raise ConfigError(f"you asked for {asked}, but {_where(graph, cuts)}; {advice}")
    chosen = _choose(cuts, exits)
    places = [graph.image, *(cut.node for cut in chosen), graph.logits]
    blocks = [graph.block(start, stop) for start, stop in pairwise(places)]
    # The last block ends in the backbone's own logits.
    eecs = eecs_behind(graph, cuts, chosen, num_classes, eec_shares, places=_where(graph, cuts))
    network = EarlyExitNetwork(blocks, {**eecs, len(blocks): nn.Identity()}).eval()
    network.origin = Origin(image_shape, tuple(cuts), tuple(chosen), difference(network))
    _warn_of_moved(exits, chosen, cuts)
    return network


@dataclass(frozen=True)
class Traced:
    """A classifier and its exported program.

    random: what it draws at random in training. is_module: whether it was given as a module that can train itself.
    """

    model: nn.Module
    program: ExportedProgram
    random: Random
    is_module: bool
    image_shape: tuple[int, int, int]

    def difference(self, network: EarlyExitNetwork) -> float:
        """The largest difference between its logits and those of its blocks together, on random images.

        Raises:
            ConfigError: it is larger than 1e-5.
        """
        generator = torch.Generator().manual_seed(0)
        largest = 0.0
        with torch.no_grad(), in_mode(self.model, training=False):
            for batch in (1, 3):
                image_BCHW = torch.randn(batch, *self.image_shape, generator=generator)
                expected = LogitsOnly(self.model)(image_BCHW.clone())
                found = network.logits_at(image_BCHW, [network.num_exits])[network.num_exits]
                largest = max(largest, float((expected - found).abs().max()))
        if not largest <= TOLERANCE:
            raise ConfigError(
                f"the blocks together differ from the backbone by {largest:.2e}, more than {TOLERANCE:.0e}; check "
                "whether the backbone keeps state between images, or writes into a view of a tensor"
            )
        return largest


def traced(model: nn.Module | ExportedProgram, image_shape: tuple[int, int, int]) -> Traced:
    """Check a classifier and trace it.

    Raises:
        ConfigError: it cannot be traced, or it mixes the images of a batch; the message says where and why.
    """
    module = as_classifier(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # attention that has no gradients
    try:
        with in_mode(module, training=False):
            check_runs(module, image_shape)
            check_images_apart(LogitsOnly(module), image_shape, name="the backbone", within=module)
        is_module = isinstance(model, nn.Module) and not isinstance(model, torch.fx.GraphModule)
        random = find_random(module, torch.zeros(2, *image_shape)) if is_module else Random({}, ())
        program = model if is_exported(model, image_shape) else exported(module, image_shape, random)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert isinstance(program, ExportedProgram)
    return Traced(module, program, random, is_module, image_shape)


def _warn_of_moved(exits: Sequence[float], chosen: Sequence[Cut], cuts: Sequence[Cut]) -> None:
    for number, (share, cut) in enumerate(zip(exits, chosen, strict=True), start=1):
        if abs(cut.share - share) > _FAR:
            _log.warning(
                "event=moved_exit detail=%r",
                f"exit {number} was asked for at {share:.0%} of the backbone's cost and sits at {cut.share:.0%}; "
                f"it can be at {_places(cuts)}",
            )


def check_shares(exits: Sequence[float], eec_shares: Sequence[float] | None) -> None:
    """Refuse exits that do not rise from above 0 to below 1, or shares of EECs that do not fit them, as ConfigError."""
    if not exits or not all(0 < share < 1 for share in exits) or sorted(set(exits)) != list(exits):
        raise ConfigError(
            f"exits is {tuple(exits)}; give rising shares of the cost between 0 and 1, such as (0.25, 0.5)"
        )
    if eec_shares is not None and (
        len(eec_shares) != len(exits) or not all(0 < share < 1 for share in eec_shares)
    ):
        raise ConfigError(
            f"eec_shares is {tuple(eec_shares)}; give one share of the cost between 0 and 1 for each of the "
            f"{len(exits)} exits"
        )


def _where(graph: Graph, cuts: Sequence[Cut]) -> str:
    crossing = graph.crossing()
    because = f"; elsewhere more than one tensor is still needed, such as {' and '.join(crossing)}"
    return f"the backbone can only be cut at {_places(cuts)}" + (because if len(crossing) > 1 else "")


def _places(cuts: Sequence[Cut]) -> str:
    places = sorted({f"{cut.share:4.0%}".strip() for cut in cuts}, key=lambda text: float(text[:-1]))
    return f"{', '.join(places) or 'no place'} of its cost"


def _choose(cuts: Sequence[Cut], exits: Sequence[float]) -> list[Cut]:
    chosen: list[Cut] = []
    for number, share in enumerate(exits):
        left = cuts[cuts.index(chosen[-1]) + 1 :] if chosen else cuts
        left = left[: len(left) - (len(exits) - number - 1)]  # leave one for each exit to come
        nearest = min(abs(cut.share - share) for cut in left)
        alike = [cut for cut in left if abs(cut.share - share) <= nearest + _NEAR]
        # The smallest feature is the cheapest to send; among equals, the last one includes the activation.
        chosen.append(min(reversed(alike), key=lambda cut: torch.Size(cut.feature_shape).numel()))
    return chosen

"""Moves, a sign optimizer whose kept weights also change places."""

import weakref
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import want_pruned_gradients
from ..registry import OPTIMIZERS
from ..state_dicts import MASK
from .flips import laid_out
from .sign_optimizer import SignOptimizer
from .top_flips import RANKED, TopFlips


@OPTIMIZERS.register_module()
class Moves(TopFlips):
    r"""Let the kept weights against which the averaged gradient speaks most change places, and flip others.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0

    The kept weights are ranked by :math:`m_t \operatorname{sign}(w_{t-1})`, the evidence by which TopFlips flips. Of
    those with evidence above 0 the first :math:`k_t` leave: they are 0 from now on. The same number grow, of the pruned
    weights those with the largest :math:`|m_t w_0|`, w0 being the weights as drawn: :math:`w_t = -|w_0|
    \operatorname{sign}(m_t)`. The next :math:`l_t` in the ranking flip. At all of these m starts at 0.

    Of a tensor with n kept weights :math:`k_t` is the whole part of :math:`\sum_{i \le t} n r_i` less the moves due
    before, r being move_share, and :math:`l_t` the same of flip_share. So the number of kept weights stays in every
    tensor, every weight has the magnitude that the seed drew for its place, and the network is a seed, a mask and
    signs, as without moves. A sign changes by a flip, or when a weight leaves and grows again. Fewer move where fewer
    have evidence against them, or fewer pruned weights a gradient.

    The gradient of pruned weights has to be computed while move_share is above 0; it counts in the norm by which
    gradients are clipped. At 0 the optimizer is TopFlips. A cosine that brings the share to 0 lets training settle.
    With too high a share weights leave before their places have shown their use, with too low a share the mask stays
    that of the pruning.

    The optimizer needs the masks and the weights as drawn (:meth:`attach`); in a run of ``pab`` a hook hands them over.
    Every place of a tensor is ranked in each step. The state is the average ``m``, one number
    for each weight, and counts for each tensor.

    Args:
        params: weights with masks (:func:`pab.pruners.apply_masks_`), or dicts of them (parameter groups).
        flip_share: the share of a tensor's kept weights that flip where they are in a step; in [0, 1], else
            ValueError. Flips beside as many moves cost accuracy (docs/results.md).
        move_share: the share of a tensor's kept weights that change places in a step; in [0, 1], else ValueError.
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        flips_per_weight: also count the flips at every single place (int32, as large as the weights).
        lr: a factor on both shares, for schedulers that move a learning rate; >= 0, else ValueError.

    Source: ours; the parts are those of docs/method.md.

    Example:
        >>> from pab.pruners import apply_masks_
        >>> net = torch.nn.Linear(4, 1, bias=False)
        >>> drawn = {'weight': torch.tensor([[0.5, -0.5, 0.2, 0.3]])}
        >>> net.load_state_dict(drawn)
        <All keys matched successfully>
        >>> apply_masks_(net, {'weight': torch.tensor([[True, True, False, False]])})
        >>> moves = Moves(net.parameters(), flip_share=0.0, move_share=0.5)  # one of two weights a step
        >>> moves.attach(net, drawn)
        >>> net.weight.grad = torch.tensor([[0.9, 0.1, -0.8, -0.8]])  # it speaks against the first, and for the last
        >>> moves.step()
        >>> net.weight.tolist()[0], net.weight_mask.tolist()[0]
        ([0.0, -0.5, 0.0, 0.30000001192092896], [False, True, False, True])
    """

    ranges = {**TopFlips.ranges, 'move_share': 'lie in [0, 1]'}

    def __init__(
        self,
        params: Iterable,
        flip_share: float = 0.0,
        move_share: float = 3e-3,
        adaptivity_rate: float = 3e-3,
        flips_per_weight: bool = False,
        lr: float = 1.0,
    ) -> None:
        self._places: dict[Tensor, tuple[nn.Module, str, Tensor]] = {}  # layer, own name, magnitudes as drawn
        shares = dict(flip_share=flip_share, move_share=move_share)
        rest = dict(adaptivity_rate=adaptivity_rate, flips_per_weight=flips_per_weight, lr=lr)
        SignOptimizer.__init__(self, params, {**shares, **rest})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault('_places', {})  # a copy is attached to nothing
        for index in range(len(self.param_groups)):
            self._want_gradients(index)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, and ask for the gradients of their pruned weights."""
        super().add_param_group(param_group)
        self._want_gradients(len(self.param_groups) - 1)

    @torch.no_grad()
    def attach(self, network: nn.Module, drawn: Mapping[str, Tensor]) -> None:
        """Say where the weights belong, and with which magnitudes they grow.

        Until then a step with a share above 0 raises a RuntimeError, which means: before the first, and in a resumed
        training as well, after its checkpoint has been loaded. Waits for the device.

        Args:
            network: has all weights of this optimizer. Its masks are looked up in every step.
            drawn: name in the network -> initial weights, of the same shape; only their magnitudes count.
                ``initialize_(copy.deepcopy(network), seed=seed)`` draws them again.

        Raises:
            ValueError: a weight is not in the network or has no mask; or its initial values are missing, of another
                shape, or not those that it has.
        """
        where = {
            param: (layer, own, f'{name}.{own}'.removeprefix('.'))
            for name, layer in reversed(list(network.named_modules()))  # a shared one is masked by its first name
            for own, param in layer.named_parameters(recurse=False)
        }
        places = {}
        for group in self.param_groups:
            for param in group['params']:
                if param not in where:
                    raise ValueError(f'Moves: a weight of shape {tuple(param.shape)} is not in the network to attach')
                layer, own, name = where[param]
                if layer._buffers.get(own + MASK) is None:
                    raise ValueError(
                        f'Moves: {name} has no mask, so none of its weights can move; prune it (apply_masks_), or '
                        'leave it to another optimizer'
                    )
                if name not in drawn or drawn[name].shape != param.shape:
                    raise ValueError(f'Moves: drawn has no {name} of shape {tuple(param.shape)}')
                sizes = laid_out(drawn[name].detach().to(param.device, param.dtype).abs(), param)
                if wrong := int(((param != 0) & (param.abs() != sizes)).sum()):
                    raise ValueError(
                        f'Moves: {wrong} weights of {name} do not have the magnitudes that were drawn; begin with the '
                        'initial weights, or with a network that was trained from them by signs'
                    )
                places[param] = layer, own, sizes
        self._places = places

    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Average, rank, move and flip."""
        share, flip_share, rate = self._share(group), max(0.0, group['flip_share']), group['adaptivity_rate']
        if share <= 0:  # a schedule may end a rounding below 0
            return super().flip(param, state, group)
        if param not in self._places:
            raise RuntimeError(
                'Moves: attach(network, drawn) comes before a step: weights grow with the magnitudes that were drawn'
            )
        if 'moves_due' not in state:  # a training may begin with flips alone
            state['moves_due'] = torch.zeros_like(state['due'])
            state['tensor_moves'] = torch.zeros_like(state['tensor_flips'])
        layer, own, sizes = self._places[param]
        average = state['moving_average']
        average.mul_(1 - rate).add_(param.grad.to(average.dtype) * rate)
        # views in the order of memory, or copies of what has another layout
        order = sorted(range(param.ndim), key=param.stride, reverse=True)
        changed = [param.detach(), layer._buffers[own + MASK], average]
        changed += [state['weight_flips']] if 'weight_flips' in state else []
        *flat, sizes = (t.permute(order).reshape(-1) for t in (*changed, laid_out(sizes, param)))
        w, kept, m = flat[:3]
        # how many are due only the device knows; of each no more than these, with the one carried over
        most, more = (min(len(w), ceil(len(w) * part) + 1) for part in (share, flip_share))
        evidence, at = _largest(m * w.sign(), min(len(w), most + more))
        strength, grow = _largest((m.abs() * sizes).masked_fill_(kept, 0), most)
        count, ranks = kept.sum(dtype=torch.float64), torch.arange(len(at), device=w.device)
        moves = (evidence[:most] > 0) & (strength > 0) & (ranks[:most] < _whole(state['moves_due'], count * share))
        first = moves.sum()
        flips = (evidence > 0) & (ranks >= first) & (ranks < first + _whole(state['due'], count * flip_share))
        grown = -sizes[grow] * m[grow].sign().to(w.dtype)
        for where, which, values in ((at, flips, -w[at]), (at[:most], moves, 0), (grow, moves, grown)):
            w.scatter_(0, where, torch.where(which, values, w[where]))
            m.scatter_(0, where, m[where].masked_fill(which, 0))
        kept.scatter_(0, at[:most], kept[at[:most]] & ~moves).scatter_(0, grow, kept[grow] | moves)
        for flips_so_far in flat[3:]:
            flips_so_far.scatter_add_(0, at, flips.to(flips_so_far.dtype))
        for tensor, part in zip(changed, flat, strict=True):
            if part.data_ptr() != tensor.data_ptr():
                tensor.permute(order).copy_(part.view(tensor.permute(order).shape))
        state['tensor_moves'].add_(first)
        return flips.sum()

    def _want_gradients(self, index: int) -> None:
        own = weakref.ref(self)

        def wanted() -> bool:
            optimizer = own()
            return optimizer is not None and optimizer._share(optimizer.param_groups[index]) > 0

        for param in self.param_groups[index]['params']:
            want_pruned_gradients(param, wanted)

    def _share(self, group: dict[str, Any]) -> float:
        return group['move_share'] * group.get('lr', 1)


def _whole(due: Tensor, added: Tensor) -> Tensor:
    """Add to what is due, and take its whole part out of it."""
    whole = due.add_(added).trunc()
    due.frac_()
    return whole


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest numbers in falling order, and where they are."""
    if values.is_cpu and len(values) > 2 * RANKED:  # faster: topk looks at those alone that may be among them
        sample = values[:: len(values) // RANKED | 1]
        bound = sample.topk(min(len(sample), 2 * count * len(sample) // len(values) + 16)).values[-1]
        candidates = (values >= bound).nonzero().squeeze(1)
        if len(candidates) >= count:
            largest, at = values[candidates].topk(count)
            return largest, candidates[at]
    return values.topk(count)

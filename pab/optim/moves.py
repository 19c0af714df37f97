"""Moves, a sign optimizer whose kept weights also change places."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import known_choice
from ..contracts import want_pruned_gradients
from ..registry import OPTIMIZERS
from ..state_dicts import MASK
from .flips import laid_out
from .sign_optimizer import SignOptimizer
from .top_flips import RANKED, TopFlips

SCOPES = 'local', 'global'


@OPTIMIZERS.register_module()
class Moves(TopFlips):
    r"""Let the kept weights against which the averaged gradient speaks most change places, and flip others.

    .. math:: m_t = (1-\gamma)\, m_{t-1} + \gamma\, g_t, \; m_0 = 0

    The kept weights are ranked by :math:`m_t \operatorname{sign}(w_{t-1}) / c_t`, TopFlips' evidence relative to
    :math:`c_t`, the mean of :math:`|m_t|` in the weight's output channel. Of those with evidence above 0 the first
    :math:`k_t` leave: they are 0 from now on. The same number grow, of the pruned weights those with the largest
    :math:`|m_t w_0| / c_t`, w0 being the weights as drawn: :math:`w_t = -|w_0| \operatorname{sign}(m_t)`. The next
    :math:`l_t` in the ranking flip. At all of these m starts at 0.

    With ``per_channel=False`` c is 1, and the channels whose gradients happen to be large (BatchNorm divides a channel
    and multiplies its gradient) take more of the moves. Accuracy is higher with c (docs/results.md). Where every
    channel has one weight c is that of the tensor.

    Of a tensor with n kept weights :math:`k_t` is the whole part of :math:`\sum_{i \le t} n r_i` less the moves due
    before, r being move_share, and :math:`l_t` the same of flip_share. So the number of kept weights stays in every
    tensor, every weight has the magnitude that the seed drew for its place, and the network is a seed, a mask and
    signs, as without moves. A sign changes by a flip, or when a weight leaves and grows again. Fewer move where fewer
    have evidence against them, or fewer pruned weights a gradient.

    With scope 'global' all tensors of a parameter group count as one: the ranking, n, k and l are those of all. A
    tensor may then lose weights or gain them, and the number of kept weights stays in the group. Of each tensor the
    kept weight that the gradient opposes least stays as it is, so that no tensor loses all.

    The gradient of pruned weights has to be computed while move_share is above 0; it counts in the norm by which
    gradients are clipped. At 0 the optimizer is TopFlips; with scope 'global' it ranks the flips of all tensors as it
    ranks moves. A cosine that brings the share to 0 lets training settle. With too high a share weights leave before
    their places have shown their use, with too low a share the mask stays that of the pruning.

    The optimizer needs the masks and the weights as drawn (:meth:`attach`); in a run of ``pab`` a hook hands them over.
    Every place of a tensor is ranked in each step; with scope 'global' a step copies all of them. The state is the
    average ``m``, one number for each weight, and counts for each tensor.

    Args:
        params: weights with masks (:func:`pab.pruners.apply_masks_`), or dicts of them (parameter groups).
        flip_share: the share of a tensor's kept weights that flip where they are in a step; in [0, 1], else
            ValueError. Flips beside as many moves cost accuracy (docs/results.md).
        move_share: the share of a tensor's kept weights that change places in a step; in [0, 1], else ValueError.
        adaptivity_rate: gamma, the share of the newest gradient in the average, per step; in (0, 1), else ValueError.
        flips_per_weight: also count the flips at every single place (int32, as large as the weights).
        lr: a factor on both shares, for schedulers that move a learning rate; >= 0, else ValueError.
        scope: where weights compete: 'local', in each tensor, or 'global', over all of the group, else ValueError.
        per_channel: True or False, else ValueError; rank by evidence relative to that of the output channel (the first
            dimension), or by :math:`m_t \operatorname{sign}(w_{t-1})` and :math:`|m_t w_0|` themselves.

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
        scope: str = 'local',
        per_channel: bool = True,
    ) -> None:
        self._places: dict[Tensor, tuple[nn.Module, str, Tensor]] = {}  # layer, own name, magnitudes as drawn
        shares = dict(flip_share=flip_share, move_share=move_share)
        rest = dict(adaptivity_rate=adaptivity_rate, flips_per_weight=flips_per_weight, lr=lr)
        SignOptimizer.__init__(self, params, {**shares, **rest, 'scope': scope, 'per_channel': per_channel})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault('_places', {})  # a copy is attached to nothing
        for index in range(len(self.param_groups)):
            group = self.param_groups[index]  # may be of a state that was saved before there were these settings
            group.setdefault('scope', 'local')
            group.setdefault('per_channel', False)
            self._want_gradients(index)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, and ask for the gradients of their pruned weights."""
        for name, known in (('scope', SCOPES), ('per_channel', (True, False))):
            known_choice('Moves', name, param_group.get(name, self.defaults[name]), known)
        super().add_param_group(param_group)
        self._want_gradients(len(self.param_groups) - 1)

    @torch.no_grad()
    def attach(self, network: nn.Module, drawn: Mapping[str, Tensor]) -> None:
        """Say where the weights belong, and with which magnitudes they grow.

        Until then a step with a share above 0 or scope 'global' raises a RuntimeError, which means: before the first,
        and in a resumed training as well, after its checkpoint has been loaded. Waits for the device.

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

    def flip_group(
        self, params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]
    ) -> Sequence[Tensor]:
        """Step on all tensors of a group, together where they compete."""
        if group['scope'] == 'global' and params:
            return self._move(params, states, group)
        return super().flip_group(params, states, group)

    def flip(self, param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Average, rank, move and flip."""
        if self._share(group) <= 0:  # a schedule may end a rounding below 0
            return super().flip(param, state, group)
        return self._move([param], [state], group)[0]

    def _move(self, params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> list[Tensor]:
        """Average, then rank, move and flip in these tensors as if they were one; the flips of each."""
        share, flip_share = max(0.0, self._share(group)), max(0.0, group['flip_share'])
        changed, parts = [], []
        for param, state in zip(params, states, strict=True):
            tensors, sizes = self._averaged(param, state, group['adaptivity_rate'])
            # in the order of memory; flat they are views, or copies of what has another layout
            order = sorted(range(param.ndim), key=param.stride, reverse=True)
            changed.append([tensor.permute(order) for tensor in tensors])
            ranked = _relative(tensors[2]) if group['per_channel'] else tensors[2]
            parts.append([tensor.permute(order).reshape(-1) for tensor in (*tensors, sizes, ranked)])
        *flat, sizes, ranked = (own[0] if len(own) == 1 else torch.cat(own) for own in zip(*parts, strict=True))
        (w, kept, m), lengths = flat[:3], [len(part[0]) for part in parts]
        against = ranked * w.sign()
        if len(parts) > 1:
            for own, mask in zip(against.split(lengths), kept.split(lengths), strict=True):  # one of each stays
                own.scatter_(0, own.masked_fill(~mask, torch.inf).argmin(0, keepdim=True), 0)
        # how many are due only the device knows; of each no more than these, with the one carried over
        most, more = (min(len(w), ceil(len(w) * part) + 1) for part in (share, flip_share))
        evidence, at = _largest(against, min(len(w), most + more))
        strength, grow = _largest((ranked.abs() * sizes).masked_fill_(kept, 0), most)
        count, ranks, due = kept.sum(dtype=torch.float64), torch.arange(len(at), device=w.device), states[0]
        moves = (evidence[:most] > 0) & (strength > 0) & (ranks[:most] < _whole(due['moves_due'], count * share))
        first = moves.sum()
        flips = (evidence > 0) & (ranks >= first) & (ranks < first + _whole(due['due'], count * flip_share))
        grown = -sizes[grow] * m[grow].sign().to(w.dtype)
        for where, which, values in ((at, flips, -w[at]), (at[:most], moves, 0), (grow, moves, grown)):
            w.scatter_(0, where, torch.where(which, values, w[where]))
            m.scatter_(0, where, m[where].masked_fill(which, 0))
        kept.scatter_(0, at[:most], kept[at[:most]] & ~moves).scatter_(0, grow, kept[grow] | moves)
        for flips_so_far in flat[3:]:
            flips_so_far.scatter_add_(0, at, flips.to(flips_so_far.dtype))
        for tensors, *own in zip(changed, *(t.split(lengths) for t in flat), strict=True):
            for tensor, part in zip(tensors, own, strict=True):
                if part.data_ptr() != tensor.data_ptr():
                    tensor.copy_(part.view(tensor.shape))
        counts = [(first, flips.sum())]
        if len(parts) > 1:
            here = [(at >= end - length) & (at < end) for length, end in zip(lengths, accumulate(lengths), strict=True)]
            counts = [((moves & own[:most]).sum(), (flips & own).sum()) for own in here]
        for state, (moved, _) in zip(states, counts, strict=True):
            state['tensor_moves'].add_(moved)
        return [flipped for _, flipped in counts]

    def _averaged(self, param: Tensor, state: dict[str, Tensor], rate: float) -> tuple[list[Tensor], Tensor]:
        """Average the gradient; what a step changes of a parameter, and the magnitudes as drawn, in its layout."""
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
        changed = [param.detach(), layer._buffers[own + MASK], average]
        return changed + ([state['weight_flips']] if 'weight_flips' in state else []), laid_out(sizes, param)

    def _want_gradients(self, index: int) -> None:
        own = weakref.ref(self)

        def wanted() -> bool:
            optimizer = own()
            return optimizer is not None and optimizer._share(optimizer.param_groups[index]) > 0

        for param in self.param_groups[index]['params']:
            want_pruned_gradients(param, wanted)

    def _share(self, group: dict[str, Any]) -> float:
        return group['move_share'] * group.get('lr', 1)


def _relative(average: Tensor) -> Tensor:
    """The averages of a tensor over the mean of their absolute values in their output channel, if it has several."""
    rest = tuple(range(average.numel() > len(average), average.ndim))  # from 0: relative to the tensor
    sizes = average.abs().nan_to_num_(0, 0)  # one that is not finite holds back no other of its channel
    return average / sizes.mean(rest, keepdim=True).clamp_(min=torch.finfo(average.dtype).tiny)


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

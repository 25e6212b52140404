"""3x3x3 convolutions with half of the multiplications, for the CPU.

Winograd's minimal filtering F(4, 3) along z: four planes of output are made from six of input by six
two-dimensional convolutions instead of twelve (A. Lavin and S. Gray, Fast algorithms for convolutional
neural networks, CVPR 2016, Equations 6 to 9; S. Winograd, Arithmetic complexity of computations, 1980).
The sums before and after them are made of a few rows at a time, which stay in the processor's cache: made of
whole maps, they would cost as much as is saved.

Called by :class:`~PartialSegLib.inference.extractors.TorchExtractor` on its own copy of a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Planes of output made at once, and planes of input that they need.
_OUT, _IN = 4, 6
#: The filter along z in Winograd's domain: rows are the six products, columns the three planes of a kernel.
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
#: The product that every plane of output contains once, which therefore brings the bias.
_COMMON = 1
#: Bytes of one plane's rows that a thread works on at once: some planes of them fit into its core's cache.
_ROWS_BYTES = 1 << 20
#: With fewer channels the sums cost more than the products that are saved.
_LEAST_CHANNELS = 16


class WinogradConv3d(nn.Module):
    """A 3x3x3 convolution of stride 1 on maps in channels-last memory, for inference alone.

    Parameters
    ----------
    convolution : nn.Conv3d
        One that :func:`suits` accepts; its weights are taken over as they are at the first use.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.direct = convolution
        self._weights: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the (N, C, D, H, W) convolution of (N, B, D, H, W), in channels-last memory."""
        depth = hidden.shape[2]
        if 8 * -(-depth // _OUT) > 3 * depth:
            # One, two and five planes: hardly a product would be saved.
            answer: Tensor = self.direct(hidden)
            return answer
        self._transform()
        batch = hidden.permute(0, 2, 3, 4, 1).contiguous()
        result = batch.new_empty(*batch.shape[:-1], self.direct.out_channels)
        for source, target in zip(batch, result, strict=True):
            self._convolve(source, target)
        return result.permute(0, 4, 1, 2, 3)

    def _convolve(self, source: Tensor, target: Tensor) -> None:
        """Write the convolution of (D, H, W, B) into (D, H, W, C)."""
        depth, height, width, channels = source.shape
        wanted = torch.get_num_threads() * _ROWS_BYTES // (width * channels * source.element_size())
        rows = max(1, min(height, wanted))
        room = source.new_empty(_IN + 2, rows + 2, width, channels)
        zeros = source.new_zeros(rows + 2, width, channels)
        for top in range(0, height, rows):
            # One row more on both sides, unless the map ends there.
            first, bottom = max(0, top - 1), min(height, top + rows)
            last = min(height, bottom + 1)
            for begin in range(0, depth, _OUT):
                planes = [
                    source[z, first:last] if 0 <= z < depth else zeros[: last - first]
                    for z in range(begin - 1, begin - 1 + _IN)
                ]
                products = self._products(_spread(planes, room[:, : last - first]))
                _gather(
                    [product[top - first : bottom - first] for product in products],
                    [target[z, top:bottom] for z in range(begin, min(depth, begin + _OUT))],
                )

    def _products(self, planes: Tensor) -> list[Tensor]:
        """Return the six (H, W, C) convolutions of (6, H, W, B) planes."""
        return [
            functional.conv2d(
                planes[index : index + 1].permute(0, 3, 1, 2),
                weight,
                self.direct.bias if index == _COMMON else None,
                padding=1,
            ).permute(0, 2, 3, 1)[0]
            for index, weight in enumerate(self._weights)
        ]

    def _transform(self) -> None:
        """Make the six (C, B, 3, 3) weights; not before they are used, because some networks never use most."""
        if not self._weights:
            filters = torch.tensor(_FILTER, dtype=torch.float64)
            weights = torch.einsum("ik,ockhw->iochw", filters, self.direct.weight.detach().double())
            self._weights = [
                weight.to(self.direct.weight.dtype, memory_format=torch.channels_last) for weight in weights
            ]


def suits(convolution: nn.Module) -> bool:
    """Whether a module is a convolution that is faster in this way."""
    return (
        isinstance(convolution, nn.Conv3d)
        and convolution.weight.dtype == torch.float32
        and not getattr(convolution, "standardize", False)
        and convolution.kernel_size == (3, 3, 3)
        and convolution.stride == convolution.dilation == (1, 1, 1)
        and convolution.padding == (1, 1, 1)
        and convolution.padding_mode == "zeros"
        and convolution.groups == 1
        and min(convolution.in_channels, convolution.out_channels) >= _LEAST_CHANNELS
    )


def extra_weight_bytes(network: nn.Module) -> int:
    """Return the memory of the further weights that a network has once every convolution was used."""
    suited = [module for module in network.modules() if isinstance(module, nn.Conv3d) and suits(module)]
    # Six 3x3 kernels of each 3x3x3 kernel.
    return sum(module.weight.numel() * module.weight.element_size() * 2 for module in suited)


def use_winograd(network: nn.Module) -> None:
    """Replace every convolution of a network that :func:`suits` by :class:`WinogradConv3d`, in place."""
    for name, child in list(network.named_modules(remove_duplicate=False)):
        if suits(child):
            parent, _, attribute = name.rpartition(".")
            assert isinstance(child, nn.Conv3d)
            setattr(network.get_submodule(parent), attribute, WinogradConv3d(child))


def _spread(planes: list[Tensor], room: Tensor) -> Tensor:
    """Return the six sums of six planes whose convolutions are wanted; `room` is for eight planes."""
    d0, d1, d2, d3, d4, d5 = planes
    t0, t1, t2, t3, t4, t5, even, odd = room
    torch.sub(d4, d2, alpha=4, out=even)
    torch.sub(d3, d1, alpha=4, out=odd)
    torch.add(even, odd, out=t1)
    torch.sub(even, odd, out=t2)
    torch.sub(d4, d2, out=even)
    torch.sub(d3, d1, out=odd)
    torch.add(even, odd, alpha=2, out=t3)
    torch.sub(even, odd, alpha=2, out=t4)
    torch.sub(d0, d2, out=t0).mul_(4).add_(even)
    torch.sub(d5, d3, out=t5).sub_(odd, alpha=4)
    return room[:_IN]


def _gather(products: list[Tensor], planes: list[Tensor]) -> None:
    """Write up to four planes of output, which are sums of the six products; overwrites products."""
    m0, m1, m2, m3, m4, m5 = products
    even, odd = m1 + m2, m1.sub_(m2)
    wide, steep = m3 + m4, m3.sub_(m4)
    torch.add(m0, even, out=planes[0]).add_(wide)
    if len(planes) > 1:
        torch.add(odd, steep, alpha=2, out=planes[1])
    if len(planes) > 2:
        torch.add(even, wide, alpha=4, out=planes[2])
    if len(planes) > 3:
        torch.add(odd, steep, alpha=8, out=planes[3]).add_(m5)

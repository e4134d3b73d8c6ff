"""First-spike pooling through the Triton kernels."""

from collections.abc import Sequence

from torch import Tensor

from ttfs_fast.gpu import kernels
from ttfs_fast.gpu.layers import blocks, launch, on_device, require_narrow, wide

Size = Sequence[int]
BLOCK = 256


def max_pool2d_forward(
    input: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    z: Tensor,
    index: Tensor,
) -> None:
    """Fill `z` (N, C, H, W), any strides, and `index`, contiguous: places in the windows."""
    if z.numel() == 0:
        return
    with on_device(input):
        require_narrow(input, z)
        launch(
            kernels.pool, (blocks(z.numel(), BLOCK),),
            input, z, index, z.numel(), input.shape[1], *input.shape[2:], *z.shape[2:],
            *input.stride(), *z.stride(), *stride, *padding, *dilation,
            KERNEL_Y=kernel[0], KERNEL_X=kernel[1], WIDE=wide(z.numel(), BLOCK), BLOCK=BLOCK,
        )  # fmt: skip


def max_pool2d_backward(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    grad_input: Tensor,
) -> None:
    """Fill `grad_input` (N, C, H, W), contiguous: an output's gradient goes to its first input."""
    if grad_input.numel() == 0:
        return
    with on_device(grad):
        require_narrow(grad, grad_input)
        launch(
            kernels.pool_gradient, (blocks(grad_input.numel(), BLOCK),),
            grad, index.contiguous(), grad_input, grad_input.numel(), grad_input.shape[1],
            *grad_input.shape[2:], *grad.shape[2:], *grad.stride(),
            *stride, *padding, *dilation,
            KERNEL_Y=kernel[0], KERNEL_X=kernel[1], WIDE=wide(grad_input.numel(), BLOCK),
            BLOCK=BLOCK,
        )  # fmt: skip

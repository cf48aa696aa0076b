"""How alike two images look: the structural similarity."""

import torch
from jaxtyping import Float
from torch import Tensor


def ssim(a: Tensor, b: Tensor, *, window: int = 7, span: float | int = 1) -> Float[Tensor, "*N"]:
    """Structural similarity of images (..., H, W) -> (...), the mean over all windows of

        (2 m_a m_b + c) (2 s_ab + d) / ((m_a^2 + m_b^2 + c) (s_a^2 + s_b^2 + d)),  c = (0.01 span)^2, d = (0.03 span)^2

    with m the mean, s^2 the variance and s_ab the covariance (all divided by the number of pixels) of a window of
    window x window pixels, one at each place. 1 for equal images, never above; span: how far values can lie apart.
    Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 2004, eq. 13 (recalled), which weighs its windows of 11 x 11 by a
    Gaussian: these are even ones, as its earlier form has them, for small images.

    Raises ValueError for images of different shapes, a window larger than they are, or a span that is not above 0.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"a and b must be images of one shape [..., H, W]; got {tuple(a.shape)} and {tuple(b.shape)}")
    if not 1 <= window <= min(a.shape[-2:]) or not span > 0:
        raise ValueError(
            f"window must be from 1 to the shorter side, {min(a.shape[-2:])}, span above 0; got {window} and {span}"
        )
    wide = torch.promote_types(a.dtype, torch.float32)
    one, other = (
        x.to(wide).unfold(-2, window, 1).unfold(-2, window, 1).flatten(-2) for x in (a, b)
    )  # [..., h, w, window^2]
    m, n = one.mean(-1, keepdim=True), other.mean(-1, keepdim=True)
    one, other = one - m, other - n  # about the mean: a bright flat window has no variance to lose in rounding
    c, d = (0.01 * span) ** 2, (0.03 * span) ** 2
    m, n = m[..., 0], n[..., 0]
    light = (2 * m * n + c) / (m**2 + n**2 + c)
    shape = (2 * (one * other).mean(-1) + d) / (one.square().mean(-1) + other.square().mean(-1) + d)
    return (light * shape).mean((-2, -1))

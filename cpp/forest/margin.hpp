// On which side of a hyperplane, and how far from it. Building and searching must agree on this to the bit.
#pragma once

namespace constann {

// `product` is the kernel's inner product of plane and row. Where infinities cancel, the row lies on the
// plane.
inline float margin(float offset, float product) {
    const float sum = offset + product;
    return sum == sum ? sum : 0.0f;
}

}  // namespace constann

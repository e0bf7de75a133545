/* hash.h: SipHash-1-3, the keyed hash of keys (Aumasson and Bernstein, 2012).
 *
 * Keyed under the segment's seed, so that nobody can choose keys that collide.
 */
#ifndef SHMC_HASH_H
#define SHMC_HASH_H

#include <stdint.h>
#include <string.h>

static inline uint64_t shmc_rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

/* One round over the four words of state. */
static inline void shmc_sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = shmc_rotl(v[1], 13) ^ v[0]; v[0] = shmc_rotl(v[0], 32);
    v[2] += v[3]; v[3] = shmc_rotl(v[3], 16) ^ v[2];
    v[0] += v[3]; v[3] = shmc_rotl(v[3], 21) ^ v[0];
    v[2] += v[1]; v[1] = shmc_rotl(v[1], 17) ^ v[2]; v[2] = shmc_rotl(v[2], 32);
}

/* The eight bytes at `p` as a little-endian number. */
static inline uint64_t shmc_le64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

/* The 64-bit hash of `len` bytes under `seed`. */
static inline uint64_t shmc_siphash(const uint64_t seed[2], const void *data,
                                    size_t len)
{
    const uint8_t *p = data;
    uint64_t v[4] = {
        seed[0] ^ 0x736f6d6570736575ull, seed[1] ^ 0x646f72616e646f6dull,
        seed[0] ^ 0x6c7967656e657261ull, seed[1] ^ 0x7465646279746573ull,
    };
    size_t left = len & 7;
    uint64_t last = (uint64_t)len << 56;

    for (const uint8_t *end = p + (len - left); p != end; p += 8) {
        uint64_t m = shmc_le64(p);
        v[3] ^= m;
        shmc_sip_round(v);
        v[0] ^= m;
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    shmc_sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        shmc_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif

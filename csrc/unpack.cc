#include "unpack.h"

#include <cstring>

#include "table.h"

namespace octavo {

namespace {

float half_value(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7FFF;
  uint32_t bits = sign | ((rest << 13) + 0x38000000);
  if (rest >= 0x7C00) bits = sign | 0x7F800000 | (rest & 0x3FF) << 13;
  float value;
  if (rest < 0x400) {
    value = float(rest) * 0x1p-24f;
    return sign ? -value : value;
  }
  std::memcpy(&value, &bits, 4);
  return value;
}

float float_value(const uint8_t* p) {
  float value;
  std::memcpy(&value, p, 4);
  return value;
}

// The code of output c of a quad's input j, with what is taken away from it.
int code_at(const octavo_weight& w, const uint8_t* quad, const uint8_t* table, int c, int j) {
  if (input_bytes(w.layout) == 32) return int(quad[4 * c + j]) - 128;
  const uint8_t both = quad[4 * (c % 16) + j];
  const int code = c < 16 ? both & 15 : both >> 4;
  if (w.layout == OCTAVO_W4L) return int(table[code]) - 128;
  return w.layout == OCTAVO_W4 ? code - 8 : code;
}

// Output c of a panel of codes.
void unpack_codes(const octavo_weight& w, const uint8_t* panel, int c, float* out) {
  const uint8_t* table = panel;
  panel += table_bytes(w.layout);
  const int head = head_bytes(w.layout), input = input_bytes(w.layout);
  for (int k0 = 0; k0 < w.cols; k0 += w.group) {
    const float scale = half_value(panel + 2 * c), minimum = head == 128 ? half_value(panel + 64 + 2 * c) : 0.f;
    panel += head;
    for (int k = 0; k < w.group; ++k) {
      const float value = scale * float(code_at(w, panel + (k / 4) * 4 * input, table, c, k % 4));
      out[k0 + k] = head == 128 ? value + minimum : value;
    }
    panel += w.group * input;
  }
}

// Output c of a panel of int16 codes.
void unpack_words(const octavo_weight& w, const uint8_t* panel, int c, float* out) {
  for (int k0 = 0; k0 < w.cols; k0 += w.group) {
    const float scale = float_value(panel + 4 * c);
    panel += head_bytes(w.layout);
    for (int k = 0; k < w.group; ++k) {
      int16_t code;
      std::memcpy(&code, panel + k / 2 * 128 + 4 * c + k % 2 * 2, 2);
      out[k0 + k] = scale * float(code);
    }
    panel += w.group * input_bytes(w.layout);
  }
}

// Output c of a panel of codes of floats.
void unpack_floats(const octavo_weight& w, const uint8_t* panel, int c, float* out) {
  const uint8_t* table = panel;
  panel += table_bytes(w.layout);
  for (int k0 = 0; k0 < w.cols; k0 += w.group) {
    const float scale = float_value(panel + 4 * c);
    panel += head_bytes(w.layout);
    for (int k = 0; k < w.group; ++k) {
      if (w.layout == OCTAVO_F8) {
        const int code = panel[k / 2 * 64 + 32 * (k % 2) + 2 * (c % 16) + c / 16];
        const uint16_t half = uint16_t((code & 0x80) << 8 | (code & 0x7F) << 7);
        uint8_t bytes[2];
        std::memcpy(bytes, &half, 2);
        out[k0 + k] = scale * half_value(bytes);
      } else {
        const uint8_t both = panel[k / 4 * 64 + 4 * (c % 16) + k % 4];
        out[k0 + k] = scale * float_value(table + 4 * (c < 16 ? both & 15 : both >> 4));
      }
    }
    panel += w.group * input_bytes(w.layout);
  }
}

}  // namespace

void unpack_row(const octavo_weight& w, int id, float* out) {
  const uint8_t* panel = w.data + size_t(id / PANEL) * panel_bytes(w);
  const int c = id % PANEL;
  if (w.layout == OCTAVO_F32) {
    for (int k = 0; k < w.cols; ++k) std::memcpy(out + k, panel + (size_t(k) * PANEL + c) * 4, 4);
    return;
  }
  if (w.layout == OCTAVO_BF16) {
    for (int k = 0; k < w.cols; ++k) {
      uint16_t bits;
      std::memcpy(&bits, panel + (size_t(k / 2) * 2 * PANEL + 2 * c + k % 2) * 2, 2);
      const uint32_t wide = uint32_t(bits) << 16;
      std::memcpy(out + k, &wide, 4);
    }
    return;
  }
  if (w.layout == OCTAVO_W16) return unpack_words(w, panel, c, out);
  if (w.layout == OCTAVO_F8 || w.layout == OCTAVO_F4) return unpack_floats(w, panel, c, out);
  unpack_codes(w, panel, c, out);
}

}  // namespace octavo

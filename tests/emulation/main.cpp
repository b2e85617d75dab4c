// emulate REQUESTS ANSWERS: runs every case of the first file, writes outputs to the second.
#include "cases.h"

#include <cstdio>
#include <cstdlib>

namespace {

void read(std::FILE* file, void* to, size_t bytes) {
  if (bytes && std::fread(to, 1, bytes, file) != bytes) {
    std::fprintf(stderr, "emulate: the request file ends too early\n");
    std::exit(2);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::FILE* in = std::fopen(argv[1], "rb");
  std::FILE* out = std::fopen(argv[2], "wb");
  if (!in || !out) return 2;
  int64_t count = 0;
  read(in, &count, sizeof count);
  for (int64_t i = 0; i < count; ++i) {
    Case request;
    read(in, &request.op, 8 * sizeof(int64_t));
    read(in, &request.step_size, 4 * sizeof(double));
    request.input.resize(size_t(request.inputs));
    for (Input& input : request.input) {
      read(in, &input.bytes, 5 * sizeof(int64_t));
      input.storage.resize(size_t(input.bytes));
      read(in, input.storage.data(), input.storage.size());
    }
    Outputs (*const run[])(const Case&) = {run_float, run_double, run_half, run_bfloat16};
    for (const auto& output : run[request.dtype](request)) {
      const int64_t bytes = int64_t(output.size());
      std::fwrite(&bytes, sizeof bytes, 1, out);
      if (bytes) std::fwrite(output.data(), 1, output.size(), out);
    }
    std::fflush(out);
  }
  std::fclose(in);
  return std::fclose(out);
}

// The Python module. Importing it loads the library, which registers every operator with torch;
// all that Python calls directly is build_info().
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return std::string("Clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("GCC ") + __VERSION__;
#else
  return "unknown";
#endif
}

py::list to_list(const std::vector<std::string>& names) {
  py::list list;
  for (const std::string& name : names) list.append(name);
  return list;
}

py::object cuda_version() {
#ifdef NEUROSENS_FAST_CUDA_VERSION
  return py::str(NEUROSENS_FAST_CUDA_VERSION);
#else
  return py::none();
#endif
}

py::object cuda_architectures() {
#ifdef NEUROSENS_FAST_CUDA_ARCHITECTURES
  return py::str(NEUROSENS_FAST_CUDA_ARCHITECTURES).attr("split")(";");
#else
  return py::list();
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = NEUROSENS_FAST_VERSION;
  info["torch_target"] = NEUROSENS_FAST_TORCH_TARGET;
  info["torch_built"] = NEUROSENS_FAST_TORCH_BUILT;
  info["cuda"] = cuda_version();
  info["cuda_architectures"] = cuda_architectures();
  info["compiler"] = compiler();
  info["instruction_sets"] = to_list(neurosens::compiled_instruction_sets());
  info["instruction_sets_supported"] = to_list(neurosens::supported_instruction_sets());
  info["instruction_set"] = neurosens::instruction_set_in_use();
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Operators of neurosens_fast, registered with torch on import.";
  m.def("build_info", &build_info,
        "How this binary was built: versions, CUDA architectures, compiler, CPU instruction sets.");
}

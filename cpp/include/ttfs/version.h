// The version. CMake and the Python package read it from here.
#pragma once

#define TTFS_VERSION "0.2.0"

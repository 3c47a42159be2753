#include "cvectors.h"

#include "ckerneltable.h"

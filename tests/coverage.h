/* A process that ends by _exit() tells what it ran through first, in a build for coverage (./lab coverage).
 */
#pragma once

#ifdef TREATY_COVERAGE
void __gcov_dump(void);
#define coverage_dump() __gcov_dump()
#else
#define coverage_dump() ((void)0)
#endif

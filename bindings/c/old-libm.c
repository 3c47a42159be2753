/* glibc 2.35 has a hypotf that differs from the one before in errno alone. Swift's runtime names it, without need here,
 * and libchunkgrpo.so would not load with an older glibc; with this object it loads from 2.34 on (RHEL 9, Amazon Linux
 * 2023). */
#ifdef __x86_64__
__asm__(".symver hypotf_before, hypotf@GLIBC_2.2.5");
float hypotf_before(float x, float y);

__attribute__((visibility("hidden"))) float hypotf(float x, float y) { return hypotf_before(x, y); }
#endif

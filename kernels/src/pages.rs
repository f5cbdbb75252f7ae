//! Large pages for large buffers.

/// Size of a large page, and the alignment that a buffer needs to get them.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// Asks the system to back a buffer of our own with large pages, before it is first touched. It is only a wish: without
/// them the address tables are missed more often, and nothing else differs.
#[cfg(target_os = "linux")]
pub(crate) fn advise_large_pages(base: *mut u8, bytes: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
    }
    if base.align_offset(LARGE_PAGE) == 0 {
        // SAFETY: advice about whole pages changes nothing that is in them, whoever owns what lies behind the buffer.
        unsafe { madvise(base, bytes, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn advise_large_pages(_base: *mut u8, _bytes: usize) {}

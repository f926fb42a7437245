//! Products of matrices that stand inside slices, for every network on flat f32.

/// A matrix inside a slice: where it starts and how far apart its rows and columns are.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T = f32> {
    values: &'a [T],
    row_step: usize,
    column_step: usize,
}

impl<'a, T> View<'a, T> {
    /// Row after row.
    pub(crate) fn rows(values: &'a [T], row_step: usize) -> View<'a, T> {
        View { values, row_step, column_step: 1 }
    }

    pub(crate) fn transposed(self) -> View<'a, T> {
        View { row_step: self.column_step, column_step: self.row_step, ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_step + (columns - 1) * self.column_step < self.values.len()
    }
}

/// (m, k) by (k, n), times `scale`, shared among threads if it is large.
pub(crate) struct Product {
    /// [m, n, k]
    pub size: [usize; 3],
    pub scale: f32,
    pub n_threads: usize,
}

impl Product {
    /// `into` = `scale` a b, its rows `row_step` apart.
    pub(crate) fn write<T: From<f32> + 'static>(&self, a: View<T>, b: View<T>, into: &mut [T], row_step: usize) {
        self.run(a, b, into, row_step, false);
    }

    /// `into` += `scale` a b
    pub(crate) fn add<T: From<f32> + 'static>(&self, a: View<T>, b: View<T>, into: &mut [T], row_step: usize) {
        self.run(a, b, into, row_step, true);
    }

    fn run<T: From<f32> + 'static>(&self, a: View<T>, b: View<T>, into: &mut [T], row_step: usize, keep: bool) {
        let [m, n, k] = self.size;
        if m == 0 || n == 0 || k == 0 {
            return;
        }
        assert!(a.holds(m, k) && b.holds(k, n), "a matrix is smaller than its product needs");
        assert!(row_step >= n && (m - 1) * row_step + n <= into.len(), "the target is smaller than the product");
        let parallelism = match self.n_threads {
            1 => gemm::Parallelism::None,
            n => gemm::Parallelism::Rayon(n),
        };
        // SAFETY: the asserts above keep every element of a, b and the target inside its slice.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                into.as_mut_ptr(),
                1,
                row_step as isize,
                keep,
                a.values.as_ptr(),
                a.column_step as isize,
                a.row_step as isize,
                b.values.as_ptr(),
                b.column_step as isize,
                b.row_step as isize,
                T::from(1.0),
                T::from(self.scale),
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

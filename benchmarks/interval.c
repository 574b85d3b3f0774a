/* The inner loops of the interval DP under operator copy, as plain C: the yardstick for the
 * compiled kernel (opmerge.planners._kernels.interval_tables). Same arrays, same order. */
#include <math.h>
#include <stdlib.h>

void interval_tables(int size, int dims, const double *log_products, const double *retentions,
                     const double *log_variances, const double *multiplicities, double *trees,
                     double *forests) {
  double *inverse = malloc(sizeof(double) * size * dims);
  double *products = malloc(sizeof(double) * size * dims);
  for (long n = 0; n < (long)size * dims; n++) {
    inverse[n] = exp(-log_products[n]);
    products[n] = exp(log_products[n]);
  }
  for (int length = 2; length < size; length++) {
#pragma omp parallel for schedule(static)
    for (int stop = 0; stop < size - length; stop++) {
      int start = stop + length, best_tree_split = 0, best_forest_split = 0;
      double *scale = malloc(sizeof(double) * dims);
      const double *rho = retentions + (long)start * dims;
      for (int d = 0; d < dims; d++) {
        double product = log_products[(long)stop * dims + d] - log_products[(long)start * dims + d];
        scale[d] = multiplicities[d] * exp(log_variances[(long)start * dims + d] + 2 * product);
      }
      double best_tree = INFINITY, best_forest = INFINITY;
      for (int split = stop + 1; split < start; split++) {
        const double *first = trees + ((long)start * size + split) * dims;
        const double *rest = forests + ((long)stop * size + split) * dims;
        const double *up = inverse + (long)stop * dims, *down = products + (long)split * dims;
        double tree_error = 0, forest_error = 0;
        for (int d = 0; d < dims; d++) {
          double composite = first[d] + rest[d] + first[d] * rest[d];
          double gain = up[d] * down[d];
          double merged = (1 - rho[d]) * composite + rho[d] * (gain - 1 + gain * first[d]);
          tree_error += scale[d] * merged * merged;
          forest_error += scale[d] * composite * composite;
        }
        if (tree_error < best_tree) best_tree = tree_error, best_tree_split = split;
        if (forest_error < best_forest) best_forest = forest_error, best_forest_split = split;
      }
      double *tree = trees + ((long)start * size + stop) * dims;
      double *forest = forests + ((long)stop * size + start) * dims;
      const double *first = trees + ((long)start * size + best_tree_split) * dims;
      const double *rest = forests + ((long)stop * size + best_tree_split) * dims;
      for (int d = 0; d < dims; d++) {
        double growth = expm1(log_products[(long)best_tree_split * dims + d] -
                              log_products[(long)stop * dims + d]);
        double composite = first[d] + rest[d] + first[d] * rest[d];
        tree[d] = (1 - rho[d]) * composite + rho[d] * (growth + (1 + growth) * first[d]);
      }
      if (best_tree <= best_forest) {
        for (int d = 0; d < dims; d++) forest[d] = tree[d];
      } else {
        first = trees + ((long)start * size + best_forest_split) * dims;
        rest = forests + ((long)stop * size + best_forest_split) * dims;
        for (int d = 0; d < dims; d++) forest[d] = first[d] + rest[d] + first[d] * rest[d];
      }
      free(scale);
    }
  }
  free(inverse);
  free(products);
}

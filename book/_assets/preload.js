// Runs between require.js and the widget manager.
(function () {
  // Modules and fonts come from this book's own folder, never from a CDN. All modules of the widget
  // manager are in one file, so they share one folder for their fonts.
  const root = document.documentElement.dataset.content_root || "./";
  const dist = "@jupyter-widgets/html-manager/dist";
  window.require.config({
    baseUrl: new URL(root + "_static/vendor/", document.baseURI).href,
    paths: { "@jupyter-widgets": dist, [dist]: dist },
  });

  // The manager joins a URL's origin and path to find its fonts; for files the origin is "null".
  if (window.location.protocol === "file:") {
    Object.defineProperty(URL.prototype, "origin", { get: () => "file://" });
  }

  // ipywidgets typesets labels through MathJax 2's queue; the book has MathJax 3, which replaces the
  // global object when it starts. This listener runs before the one that draws the widgets.
  window.addEventListener("load", function () {
    window.MathJax = window.MathJax || {};
    window.MathJax.Hub = {
      Queue: function (job) {
        const element = Array.isArray(job) ? job[2] : null;
        if (element && window.MathJax.typesetPromise) {
          window.MathJax.typesetPromise([element]);
        }
      },
    };
  });
})();

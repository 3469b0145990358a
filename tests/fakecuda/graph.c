/*
 * graph.c -- as much of graphs as a benchmark needs: a stream's work is captured, and queued again as
 * often as one likes.
 *
 * Threads: any.
 */
#include "driver.h"

#include <stdlib.h>

typedef struct CUgraph_st {
    fc_object object;
    fc_op *first;
} fc_graph;

typedef struct CUgraphExec_st {
    fc_object object;
    fc_op *first;
} fc_graph_exec;

static CUresult copy_ops(const fc_op *from, fc_op **to)
{
    for (; from != NULL; from = from->next) {
        *to = malloc(sizeof **to);
        if (*to == NULL) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        **to = *from;
        (*to)->next = NULL;
        to = &(*to)->next;
    }
    return CUDA_SUCCESS;
}

static CUresult graph_make(fc_context *c, fc_op *first, CUgraph *out)
{
    fc_graph *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    fc_object_add(&g->object, FC_GRAPH, c);
    g->first = first;
    *out = g;
    return CUDA_SUCCESS;
}

static void graph_free(fc_graph *g)
{
    fc_ops_free(g->first);
    fc_object_remove(&g->object);
    free(g);
}

static void exec_free(fc_graph_exec *e)
{
    fc_ops_free(e->first);
    fc_object_remove(&e->object);
    free(e);
}

void fc_graphs_free(fc_context *context)
{
    for (fc_graph *g; (g = fc_object_any(context, FC_GRAPH)) != NULL;) {
        graph_free(g);
    }
    for (fc_graph_exec *e; (e = fc_object_any(context, FC_GRAPH_EXEC)) != NULL;) {
        exec_free(e);
    }
}

CUresult cuGraphCreate(CUgraph *out, unsigned flags)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return fc_leave(flags == 0 ? graph_make(c, NULL, out) : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuGraphDestroy(CUgraph graph)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_graph *g = fc_object_find(graph, FC_GRAPH);
    if (g == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    graph_free(g);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
    fc_stream *s;
    (void)mode;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (s->capturing) {
        return fc_leave(CUDA_ERROR_ILLEGAL_STATE);
    }
    s->capturing = true;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *out)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!s->capturing) {
        return fc_leave(CUDA_ERROR_ILLEGAL_STATE);
    }
    fc_op *first = s->captured;
    s->captured = NULL;
    s->captured_last = &s->captured;
    s->capturing = false;
    return fc_leave(graph_make(s->object.context, first, out));
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    fc_context *c;
    (void)flags;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const fc_graph *g = fc_object_find(graph, FC_GRAPH);
    fc_graph_exec *e = calloc(1, sizeof *e);
    if (g == NULL || e == NULL) {
        free(e);
        return fc_leave(g == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_object_add(&e->object, FC_GRAPH_EXEC, c);
    *out = e;
    return fc_leave(copy_ops(g->first, &e->first));
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const fc_graph_exec *e = fc_object_find(exec, FC_GRAPH_EXEC);
    if (e == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    for (const fc_op *op = e->first; op != NULL && result == CUDA_SUCCESS; op = op->next) {
        result = fc_stream_push(s, op);
    }
    return fc_leave(result);
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_graph_exec *e = fc_object_find(exec, FC_GRAPH_EXEC);
    if (e == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    exec_free(e);
    return fc_leave(CUDA_SUCCESS);
}
